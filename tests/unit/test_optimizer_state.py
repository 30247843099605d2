"""The state of an optimizer as bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from spark_dlobd.errors import ConfigurationError, PersistenceError
from spark_dlobd.training.optimizer_state import (
    check_optimizer_state,
    load_optimizer_state,
    optimizer_state,
    without_learning_rate,
)

keras = pytest.importorskip("keras")


def network(optimizer: Any, units: int = 1) -> Any:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])
    model.compile(optimizer, "mse")
    return model


def trained(optimizer: Any) -> Any:
    model = network(optimizer)
    model.fit(np.ones((4, 2)), np.ones(4), epochs=3, verbose=0)
    return model


def numbers(model: Any) -> list[Any]:
    return [np.asarray(variable) for variable in model.optimizer.variables]


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(0.01, momentum=0.9),
        lambda: keras.optimizers.Adam(0.01, amsgrad=True, use_ema=True),
        lambda: keras.optimizers.Adafactor(0.01),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
        lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)),
        lambda: keras.optimizers.SGD(0.01, gradient_accumulation_steps=2),
    ],
    ids=["momentum", "amsgrad-ema", "adafactor", "loss-scale", "schedule", "accumulation"],
)
def test_every_variable_comes_back(make: Any) -> None:
    model = trained(make())
    other = network(make())
    load_optimizer_state(other, optimizer_state(model.optimizer))
    assert len(numbers(other)) == len(numbers(model))
    for mine, given in zip(numbers(other), numbers(model), strict=True):
        np.testing.assert_array_equal(mine, given)
    assert int(other.optimizer.iterations) == int(model.optimizer.iterations) > 0


def test_the_learning_rate_can_be_left_out() -> None:
    model = trained(keras.optimizers.SGD(0.25, momentum=0.9))
    state = optimizer_state(model.optimizer)
    other = network(keras.optimizers.SGD(0.5, momentum=0.9))
    load_optimizer_state(other, without_learning_rate(state))
    assert float(other.optimizer.learning_rate) == 0.5 and int(other.optimizer.iterations) == 3
    load_optimizer_state(other, state)
    assert float(other.optimizer.learning_rate) == 0.25


@pytest.mark.parametrize(
    ("optimizer", "units", "message"),
    [
        ("adam", 1, r"the model holds: SGD\. Got Adam"),
        (keras.optimizers.SGD(), 1, r"a state of 1 variables of SGD .* Got one of 3"),
        (keras.optimizers.SGD(momentum=0.9), 2, r"a state of 3 variables .* or of other shapes"),
    ],
)
def test_a_state_of_something_else(optimizer: Any, units: int, message: str) -> None:
    state = optimizer_state(trained(keras.optimizers.SGD(momentum=0.9)).optimizer)
    with pytest.raises(ConfigurationError, match=message):
        load_optimizer_state(network(optimizer, units), state)


def test_damaged_bytes() -> None:
    state = optimizer_state(trained("adam").optimizer)
    with pytest.raises(PersistenceError, match="state is damaged"):
        load_optimizer_state(network("adam"), state[:-30])
    with pytest.raises(PersistenceError, match=r"/stage/optimizer\.npz is damaged: .*KeyError"):
        check_optimizer_state(saved(np.savez, a=np.zeros(1)), "/stage/optimizer.npz")
    with pytest.raises(PersistenceError, match="damaged or compressed"):
        check_optimizer_state(saved(np.savez_compressed, kind=np.array("SGD"), a=np.zeros(1000)))
    with pytest.raises(PersistenceError, match="allow_pickle=False"):
        check_optimizer_state(saved(np.savez, kind=np.array("SGD"), a=np.array([{}])))


def test_a_flipped_bit_is_noticed_or_changes_nothing() -> None:
    model = trained("sgd")
    state = optimizer_state(model.optimizer)
    before = numbers(model)
    for position in range(0, len(state), 7):
        flipped = bytearray(state)
        flipped[position] ^= 1 << position % 8
        try:
            load_optimizer_state(model, bytes(flipped))
        except (PersistenceError, ConfigurationError):
            continue
        for mine, given in zip(numbers(model), before, strict=True):
            np.testing.assert_array_equal(mine, given)


def saved(save: Any, **arrays: Any) -> bytes:
    content = io.BytesIO()
    save(content, **arrays)
    return content.getvalue()
