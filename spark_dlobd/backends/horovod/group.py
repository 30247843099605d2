"""Horovod's collective operations as the training loop wants them.

Only ``horovod.tensorflow`` operations are used: Horovod's own optimizer wrapper
silently reduces nothing on Keras 3.
"""

from __future__ import annotations

from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spark_dlobd.backends.allreduce.group import RankGroup


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
            return self._average_as_bf16(gradients)
        sent = [tf.cast(g, tf.float16) if self._compression else _known(g) for g in gradients]
        received = hvd.grouped_allreduce(sent, op=hvd.Average)
        return [tf.cast(r, g.dtype) for r, g in zip(received, gradients, strict=True)]

    def _average_as_bf16(self, gradients: list[Any]) -> list[Any]:
        """Average with bfloat16 on the wire and float32 sums.

        Horovod adds no bfloat16, so this is a reduce-scatter and an allgather of
        their bits: every rank gets its slice of all gradients, adds in float32, and
        sends the rounded mean to all. As many bytes travel as in a ring allreduce.
        """
        flat = tf.concat([tf.reshape(tf.cast(g, tf.float32), [-1]) for g in gradients], axis=0)
        count = tf.shape(flat)[0]
        slice_size = -(-count // self.size)
        padded = tf.pad(flat, [[0, slice_size * self.size - count]])
        slices = _from_bits(hvd.alltoall(_to_bits(padded), name="bf16_slices"))
        mean = tf.reduce_mean(tf.reshape(slices, [self.size, -1]), axis=0)
        means = _from_bits(hvd.allgather(_to_bits(mean), name="bf16_means"))[:count]
        parts = tf.split(means, [tf.size(g) for g in gradients])
        return [
            tf.cast(tf.reshape(part, tf.shape(g)), g.dtype)
            for part, g in zip(parts, gradients, strict=True)
        ]

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


def _to_bits(values: Any) -> Any:
    """Round float32 to the nearest bfloat16 and return its bytes."""
    bits = tf.bitcast(tf.cast(values, tf.bfloat16), tf.uint16)
    return tf.reshape(tf.bitcast(bits, tf.uint8), [-1])


def _from_bits(received: Any) -> Any:
    """Float32 values of what `_to_bits` made."""
    bits = tf.bitcast(tf.reshape(received, [-1, 2]), tf.uint16)
    return tf.cast(tf.bitcast(bits, tf.bfloat16), tf.float32)
