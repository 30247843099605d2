"""The loss of each of several outputs is a mean over rows, however they fall into batches."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from spark_dlobd.training.compile_args import compile_config, compile_model

RNG = np.random.default_rng(0)
X = RNG.normal(size=(11, 3)).astype("float32")
A, B = RNG.integers(0, 2, 11).astype("float32"), RNG.normal(size=11).astype("float32")


def network(outputs: str, **compiled: Any) -> Any:
    keras.utils.set_random_seed(1)
    x = keras.Input((3,))
    a, b = keras.layers.Dense(1, "sigmoid", name="a")(x), keras.layers.Dense(1, name="b")(x)
    free = keras.layers.Dense(2, name="free")(x)
    named = {"a": a, "b": b, "free": free}
    model = keras.Model(x, named if outputs == "dict" else [free, a, b])
    compile_model(model, compile_config(model, optimizer="sgd", **compiled))
    return model


def labels(outputs: str, rows: slice = slice(None)) -> Any:
    if outputs == "dict":
        return {"a": A[rows], "b": B[rows], "free": None}
    return (None, A[rows], B[rows])


def in_steps(outputs: str, size: int) -> Any:
    """Batches whose number of rows is not known while Keras traces."""
    for start in range(0, len(X), size):
        rows = slice(start, start + size)
        yield X[rows], labels(outputs, rows)


@pytest.mark.parametrize("outputs", ["list", "dict"])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_short_batch_and_one_that_is_not_there_count_their_rows(outputs: str) -> None:
    weights: Any = [0, 1, 2] if outputs == "list" else {"b": 2.0}
    losses = {"a": "binary_crossentropy", "b": "mse"}
    model = network(outputs, loss=losses, loss_weights=weights)
    found = model.evaluate(in_steps(outputs, 4), verbose=0, return_dict=True)
    given = tf.nest.flatten(model(X))
    a, b = (np.asarray(one)[:, 0] for one in given if one.shape[1] == 1)
    cross = -np.mean(A * np.log(a) + (1 - A) * np.log(1 - a))
    square = np.mean((B - b) ** 2)
    assert found["a_loss"] == pytest.approx(cross, rel=1e-5)
    assert found["b_loss"] == pytest.approx(square, rel=1e-5)
    assert found["loss"] == pytest.approx(cross + 2 * square, rel=1e-5)


@pytest.mark.parametrize("outputs", ["list", "dict"])
def test_the_model_can_be_saved_and_compiled_again(outputs: str, tmp_path: Any) -> None:
    model = network(outputs, loss={"a": "binary_crossentropy", "b": "mse"})
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").compiled
    model.compile(loss="mse")
    assert model.compiled
