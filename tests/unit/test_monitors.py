"""What callbacks and stopWhen wait for has to come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import pytest

from spark_dlobd.errors import ConfigurationError
from spark_dlobd.job.target import Target
from spark_dlobd.training.callbacks import CheckLogged, StopAtTarget
from spark_dlobd.training.monitors import check_watched, monitored, of_target

EarlyStopping = keras.callbacks.EarlyStopping
Checkpoint = keras.callbacks.ModelCheckpoint
Plateau = keras.callbacks.ReduceLROnPlateau


class Patient(EarlyStopping):  # type: ignore[misc]
    """A subclass of Keras's."""


class Watcher(keras.callbacks.Callback):  # type: ignore[misc]
    """The user's own, with Keras's word for it."""

    monitor = "val_loss"


class Adds(keras.callbacks.Callback):  # type: ignore[misc]
    """Logs a metric that Keras does not know."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["kappa"] = 0.5


def check(callbacks: list[Any], names: Any = ("loss", "accuracy"), validates: bool = False) -> None:
    check_watched(monitored(callbacks), names, callbacks, validates)


@pytest.mark.parametrize(
    "make",
    [
        EarlyStopping,
        Plateau,
        lambda: Checkpoint("best.keras", save_best_only=True),
        Patient,
        Watcher,
    ],
)
def test_what_waits_for_validation_needs_validation_rows(make: Any) -> None:
    name = type(make()).__name__
    message = (
        rf"monitor of {name} must name one of 'loss', 'accuracy'\. Got 'val_loss'\. .*Fraction"
    )
    with pytest.raises(ConfigurationError, match=message):
        check([make()])
    check([make()], validates=True)


def test_a_misspelt_metric_is_refused() -> None:
    message = r"one of 'loss', 'accuracy', 'val_loss', 'val_accuracy'\. Got 'val_acc'\.$"
    with pytest.raises(ConfigurationError, match=message):
        check([EarlyStopping("loss"), EarlyStopping("val_acc")], validates=True)


def test_a_checkpoint_of_every_epoch_waits_for_nothing() -> None:
    check([Checkpoint("each.keras")])


def test_the_learning_rate_may_be_monitored_where_a_callback_logs_it() -> None:
    check([keras.callbacks.LearningRateScheduler(float), EarlyStopping("learning_rate")])
    with pytest.raises(ConfigurationError, match="Got 'learning_rate'"):
        check([EarlyStopping("learning_rate")])


@pytest.mark.parametrize("make", [Adds, lambda: keras.callbacks.LambdaCallback(print)])
def test_a_callback_of_the_user_may_add_the_metric_for_those_behind_it(make: Any) -> None:
    check([make(), EarlyStopping("kappa")])
    with pytest.raises(ConfigurationError, match="Got 'kappa'"):
        check([EarlyStopping("kappa"), make()])
    with pytest.raises(ConfigurationError, match="Got 'val_loss'"):
        check([make(), EarlyStopping("val_loss")])
    target = of_target(Target.parse("kappa > 0.4"), [make()])
    check_watched([target], ["loss"], [], validates=False)


def test_names_of_a_custom_step_are_not_known_before() -> None:
    check([EarlyStopping("halved")], names=None)


def test_after_the_first_epoch_all_names_are_known() -> None:
    callback = CheckLogged(monitored([EarlyStopping("kappa")]))
    callback.on_epoch_end(0, {"loss": 1.0, "kappa": 0.5})
    callback.on_epoch_end(1, {"loss": 1.0})
    message = r"monitor of EarlyStopping must name a metric of the training: 'loss'\. Got 'kappa'\."
    with pytest.raises(ConfigurationError, match=message):
        callback.on_epoch_end(0, {"loss": 1.0})


def test_the_target_has_to_be_in_every_epoch() -> None:
    callback = StopAtTarget(Target.parse("kappa > 0.4"))
    model = SimpleNamespace(stop_training=False, optimizer=None)
    callback.set_model(model)
    callback.on_epoch_end(0, {"kappa": 0.3})
    assert not model.stop_training
    callback.on_epoch_end(1, {"kappa": 0.5})
    assert model.stop_training
    with pytest.raises(ConfigurationError, match=r"stopWhen must name .*'loss'. Got 'kappa > 0.4'"):
        callback.on_epoch_end(2, {"loss": 1.0})
