"""Frozen layers: told to workers, and the same to the last bit after an epoch."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from spark_dlobd.errors import ModelError
from spark_dlobd.training.keras_codec import archive_to_model, model_to_archive
from spark_dlobd.training.state import average_statistics, mean_of

RANKS = 7
"""Seven times a number, over seven, is not always that number."""


class Ranks:
    """What one of several ranks sees, where the others have given values."""

    rank, size = 0, RANKS

    def __init__(self, others: dict[bytes, list[Any]]) -> None:
        self.others = others
        self.sums = 0

    def sum(self, array: Any) -> Any:
        self.sums += 1
        total = array
        for value in self.others.get(array.tobytes(), [array] * (RANKS - 1)):
            total = total + value
        return total

    def gather(self, array: Any) -> Any:
        gathered = np.stack([array] * RANKS)
        gathered[1:, self.differs] += 1
        return gathered

    differs: Any = ()


def network() -> Any:
    keras.utils.set_random_seed(2)
    base = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()], name="base"
    )
    base.trainable = False
    head = [keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((4,)), base, *head])


def test_seven_times_a_weight_over_seven_is_another() -> None:
    weights = network().get_weights()[0]
    total = np.sum([weights] * RANKS, axis=0)
    assert (total / RANKS != weights).any()
    assert (mean_of([weights] * RANKS) == weights).all()
    assert mean_of([np.float32(1), np.float32(2)]) == 1.5


def test_only_what_differs_between_ranks_travels() -> None:
    model = network()
    before = model.get_weights()
    model.layers[1].moving_mean.assign([1.0, 2.0, 3.0])
    own = np.asarray(model.layers[1].moving_mean)
    group = Ranks({own.tobytes(): [own + 7] * (RANKS - 1)})
    moved = [v is model.layers[1].moving_mean for v in model.non_trainable_weights]
    group.differs = [moved.index(True)]
    average_statistics(model, group)
    assert group.sums == 1
    np.testing.assert_allclose(model.layers[1].moving_mean, own + 6)
    after = model.get_weights()
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if (a != b).any()]
    assert len(changed) == 1


def frozen(model: Any) -> list[bool]:
    return [any(v is w for w in model.non_trainable_weights) for v in model.weights]


def test_a_frozen_base_is_frozen_in_the_file() -> None:
    model = network()
    rebuilt = archive_to_model(model_to_archive(model))
    assert frozen(rebuilt) == frozen(model)
    base = rebuilt.get_layer("base")
    assert not base.trainable and not base.layers[-1].trainable
    base.trainable = True
    assert len(rebuilt.trainable_weights) == 8


@keras.saving.register_keras_serializable("tests_frozen")
class Own(keras.Model):
    """A class of the user's own, whose config says nothing of what is frozen."""

    def __init__(self, frozen: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.base, self.head = keras.layers.Dense(3), keras.layers.Dense(1)
        self.base.trainable = not frozen

    def call(self, x: Any) -> Any:
        return self.head(self.base(x))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "frozen": not self.base.trainable}


@keras.saving.register_keras_serializable("tests_frozen")
class Silent(Own):
    """One that forgets it."""

    def get_config(self) -> dict[str, Any]:
        return keras.Model.get_config(self)


@pytest.mark.parametrize("compiled", [True, False])
def test_frozen_layers_that_the_file_forgets_are_refused(compiled: bool) -> None:
    model = Silent()
    model(np.ones((2, 4)))
    if compiled:
        model.compile("sgd", "mse")
    model_to_archive(model)
    model.base.trainable = False
    with pytest.raises(ModelError, match=r"train other weights.*dense.*set it in __init__"):
        model_to_archive(model)


def test_frozen_layers_of_a_class_that_says_so() -> None:
    model = Own(frozen=True)
    model(np.ones((2, 4)))
    assert len(archive_to_model(model_to_archive(model)).trainable_weights) == 2


def test_a_single_frozen_weight_is_refused() -> None:
    model = network()
    model.layers[-1].kernel.trainable = False
    with pytest.raises(ModelError, match=r"train other weights.*kernel"):
        model_to_archive(model)
