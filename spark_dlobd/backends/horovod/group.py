"""Horovod's collective operations as the training loop wants them.

Only ``horovod.tensorflow`` operations are used: Horovod's own optimizer wrapper
silently reduces nothing on Keras 3.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spark_dlobd.backends.allreduce.group import RankGroup
from spark_dlobd.backends.allreduce.half import mean_in_half


class HorovodGroup(RankGroup):
    """All ranks of an initialized Horovod.

    Parameters
    ----------
    compression : {"fp16", "bf16"} or None
        Type of gradients on the wire.
    """

    def __init__(self, compression: str | None = None) -> None:
        super().__init__(hvd.rank(), hvd.size())
        self._compression = compression

    def _average(self, gradients: list[Any]) -> list[Any]:
        if self._compression == "bf16":
            # Horovod adds no bfloat16
            alltoall = partial(hvd.alltoall, name="bf16_slices")
            allgather = partial(hvd.allgather, name="bf16_means")
            return mean_in_half(gradients, self.size, "bf16", alltoall, allgather)
        sent = [tf.cast(g, tf.float16) if self._compression else _known(g) for g in gradients]
        received = hvd.grouped_allreduce(sent, op=hvd.Average)
        return [tf.cast(r, g.dtype) for r, g in zip(received, gradients, strict=True)]

    def any_flag(self, flag: Any) -> Any:
        """Sum a small flag over ranks."""
        return hvd.allreduce(tf.convert_to_tensor(flag), op=hvd.Sum, name="stop_wish")

    def sum(self, array: NDArray[Any]) -> NDArray[Any]:
        """Sum over ranks."""
        with self.attendance.joining():
            found = np.asarray(hvd.allreduce(_known(tf.convert_to_tensor(array)), op=hvd.Sum))
            return found.astype(array.dtype, copy=False)

    def gather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Stack over ranks."""
        with self.attendance.joining():
            found = np.asarray(hvd.allgather(_known(tf.convert_to_tensor(array[None]))))
            return found.astype(array.dtype, copy=False)

    def close(self) -> None:
        """Leave Horovod."""
        hvd.shutdown()


def _known(values: Any) -> Any:
    """Values of a type that Horovod takes: not bfloat16, all of whose numbers float32 holds."""
    return tf.cast(values, tf.float32) if values.dtype == tf.bfloat16 else values
