"""A network of whole numbers that tells ids apart which float32 merges."""

from __future__ import annotations

from typing import Any

IDS = [2**24 + k for k in range(4)] * 8
"""Every second one is lost in float32."""


def id_network(dtype: str = "int64") -> Any:
    """The class of an id is its remainder by 4; one step of gradient descent learns it."""
    import keras

    ids = keras.Input((1,), dtype=dtype)
    remainder = keras.ops.reshape(keras.ops.mod(ids, 4), (-1,))
    one_hot = keras.ops.one_hot(remainder, 4)
    layer = keras.layers.Dense(4, "softmax", use_bias=False, kernel_initializer="zeros")
    return keras.Model(ids, layer(one_hot))
