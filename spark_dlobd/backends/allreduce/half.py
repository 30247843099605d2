"""Gradients in half precision on the wire and float32 in the sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

_TYPES = {"fp16": tf.float16, "bf16": tf.bfloat16}


def mean_in_half(
    tensors: Sequence[Any],
    size: int,
    wire: str,
    alltoall: Callable[[Any], Any],
    allgather: Callable[[Any], Any],
) -> list[Any]:
    """Average tensors over ranks.

    A reduce-scatter and an allgather of bytes: every rank gets its slice of all tensors, adds
    in float32, and sends the rounded mean to all. As many bytes travel as in a ring allreduce.

    Parameters
    ----------
    tensors : sequence of tensor
        Of this rank.
    size : int
        Number of ranks.
    wire : {"fp16", "bf16"}
        Type of the values that travel.
    alltoall, allgather : callable
        From and to flat uint8 tensors: the first hands slice ``i`` to rank ``i`` and joins what
        comes, the second joins what all ranks have. All slices have the same length.
    """
    flat = tf.concat([tf.reshape(tf.cast(each, tf.float32), [-1]) for each in tensors], axis=0)
    count = tf.shape(flat)[0]
    slice_size = -(-count // size)
    padded = tf.pad(flat, [[0, slice_size * size - count]])
    slices = _from_bytes(alltoall(_to_bytes(padded, wire)), wire)
    mean = tf.reduce_mean(tf.reshape(slices, [size, -1]), axis=0)
    means = _from_bytes(allgather(_to_bytes(mean, wire)), wire)[:count]
    return split_like(means, tensors)


def split_like(flat: Any, tensors: Sequence[Any]) -> list[Any]:
    """Cut a flat tensor into pieces of the shapes and types of `tensors`."""
    parts = tf.split(flat, [tf.size(each) for each in tensors])
    return [
        tf.cast(tf.reshape(part, tf.shape(each)), each.dtype)
        for part, each in zip(parts, tensors, strict=True)
    ]


def _to_bytes(values: Any, wire: str) -> Any:
    """Round float32 to the nearest value of the type and return its bytes."""
    bits = tf.bitcast(tf.cast(values, _TYPES[wire]), tf.uint16)
    return tf.reshape(tf.bitcast(bits, tf.uint8), [-1])


def _from_bytes(received: Any, wire: str) -> Any:
    """Float32 values of what `_to_bytes` made."""
    bits = tf.bitcast(tf.reshape(received, [-1, 2]), tf.uint16)
    return tf.cast(tf.bitcast(bits, _TYPES[wire]), tf.float32)
