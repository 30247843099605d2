"""Models whose first gradient step a reader can compute by hand, and data to train them on."""

from __future__ import annotations

from typing import Any

import numpy as np

from spark_dlobd import DLEstimator

X = np.array([[1, 0], [0, 1], [2, 1], [1, 3], [4, 0], [0, 2], [3, 3], [5, 1]], "float64")
"""Whole numbers of one byte, so that every column type can hold them."""
Y = X @ [2.0, -1.0] + 1.0
CLASSES = np.array([0, 1, 2, 0, 1, 2, 2, 0])
ROWS = len(X)


def linear(units: int = 1, activation: str | None = None, width: int = 2, **options: Any) -> Any:
    """One Dense layer without bias that starts at zero."""
    import keras

    layer = keras.layers.Dense(
        units, activation, use_bias=False, kernel_initializer="zeros", **options
    )
    return keras.Sequential([keras.Input((width,)), layer])


def estimator(model: Any, **params: Any) -> DLEstimator:
    """One step of plain gradient descent over all rows, in this process."""
    settings: dict[str, Any] = {
        "optimizer": "sgd",
        "learningRate": 1.0,
        "loss": "mse",
        "batchSize": ROWS,
        "backend": "local",
        "tracking": "none",
        "verbose": 0,
    }
    return DLEstimator(model=model, **{**settings, **params})


def weights(model: Any) -> Any:
    """Kernel of a fitted linear model, ``(width, units)``."""
    return model.getKerasModel().get_weights()[0]


def squares_step(x: Any, y: Any, row_weights: Any = 1.0) -> Any:
    """Kernel after one step of size 1 on the mean squared error, from zero."""
    y = np.reshape(y, (len(x), -1))
    factor = np.reshape(np.broadcast_to(row_weights, len(x)), (-1, 1))
    return 2 / y.size * x.T @ (factor * y)


def softmax_step(x: Any, labels: Any, classes: int, row_weights: Any = 1.0) -> Any:
    """Kernel after one step of size 1 on the crossentropy, from zero: every class as likely."""
    factor = np.reshape(np.broadcast_to(row_weights, len(x)), (-1, 1))
    return x.T @ (factor * (np.eye(classes)[labels] - 1 / classes)) / len(x)
