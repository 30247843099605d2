"""How much a network computes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def multiply_adds(model: Any) -> int:
    """Multiply-adds of the forward pass of one row, by the shapes of its layers.

    Kernels count once for each position of what their layer gives (of what it takes, where it
    is recurrent). Embeddings, activations and normalizations count nothing, and a layer whose
    shapes are not known counts its kernels once.

    Parameters
    ----------
    model : keras.Model
        Built.

    Examples
    --------
    >>> import keras
    >>> layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3), keras.layers.Flatten()]
    >>> multiply_adds(keras.Sequential([*layers, keras.layers.Dense(10)]))
    1368
    """
    return sum(_kernels(layer) * _positions(layer) for layer in _leaves(model))


def _leaves(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if getattr(layer, "layers", None):
            yield from _leaves(layer)
        else:
            yield layer


def _kernels(layer: Any) -> int:
    import keras

    if isinstance(layer, keras.layers.Embedding):
        return 0
    return sum(math.prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1)


def _positions(layer: Any) -> int:
    import keras

    recurrent = isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional))
    try:
        shape = tuple((layer.input if recurrent else layer.output).shape)
    except (AttributeError, ValueError):
        return 1
    return math.prod(extent or 1 for extent in shape[1:-1])
