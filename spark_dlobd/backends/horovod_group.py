"""Horovod's collective operations as the training loop wants them.

Only ``horovod.tensorflow`` operations are used: Horovod's own optimizer wrapper
silently reduces nothing on Keras 3.
"""

from __future__ import annotations

import json
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spark_dlobd.errors import WorkersDisagreeError

_WIRE_TYPES = {"fp16": tf.float16, "bf16": tf.bfloat16}


class HorovodGroup:
    """All ranks of an initialized Horovod.

    Parameters
    ----------
    compression : {"fp16", "bf16"} or None
        Type of gradients on the wire.
    """

    def __init__(self, compression: str | None = None) -> None:
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self._wire = _WIRE_TYPES[compression] if compression else None

    def average_gradients(self, gradients: list[Any]) -> list[Any]:
        """Average over ranks in one fused operation."""
        if self.size == 1:
            return gradients
        sent = [g if self._wire is None else tf.cast(g, self._wire) for g in gradients]
        received = hvd.grouped_allreduce(sent, op=hvd.Average)
        return [tf.cast(r, g.dtype) for r, g in zip(received, gradients, strict=True)]

    def any_flag(self, flag: Any) -> Any:
        """Sum a small flag over ranks."""
        return hvd.allreduce(tf.convert_to_tensor(flag), op=hvd.Sum, name="stop_wish")

    def sum(self, array: NDArray[Any]) -> NDArray[Any]:
        """Sum over ranks."""
        return np.asarray(hvd.allreduce(tf.convert_to_tensor(array), op=hvd.Sum))

    def gather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Stack over ranks."""
        return np.asarray(hvd.allgather(tf.convert_to_tensor(array[None])))

    def check_agreement(self, facts: dict[str, Any]) -> None:
        """Compare JSON-able facts of all ranks.

        Raises
        ------
        WorkersDisagreeError
            Naming each fact that differs with its value on every rank.
        """
        text = json.dumps(facts, sort_keys=True).encode()
        lengths = self.gather(np.array(len(text)))
        joined = np.asarray(hvd.allgather(tf.constant(np.frombuffer(text, np.uint8)))).tobytes()
        ends = np.cumsum(lengths)
        per_rank = [
            json.loads(joined[end - length : end])
            for end, length in zip(ends, lengths, strict=True)
        ]
        for name in facts:
            values = [other.get(name) for other in per_rank]
            if any(value != values[0] for value in values):
                raise WorkersDisagreeError(
                    f"{name} differs between ranks: "
                    + ", ".join(f"rank {rank} has {value}" for rank, value in enumerate(values))
                    + ". Give every executor the same environment."
                )
