"""The Param stopWhen."""

from __future__ import annotations

import math

import pytest

from spark_dlobd import DLEstimator
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.job.target import Target


@pytest.mark.parametrize(
    ("text", "reached", "missed"),
    [
        ("val_accuracy >= 0.985", 0.985, 0.9849),
        ("val_accuracy > 0.985", 0.9851, 0.985),
        ("loss<1e-1", 0.09, 0.1),
        ("  loss <= -2.5 ", -2.5, -2.4),
    ],
)
def test_a_target_is_reached_on_its_side(text: str, reached: float, missed: float) -> None:
    target = Target.parse(text)
    assert target.reached(reached)
    assert not target.reached(missed)


def test_nan_never_reaches_a_target() -> None:
    assert not Target.parse("loss < 0.1").reached(math.nan)
    assert not Target.parse("loss > 0.1").reached(math.nan)


@pytest.mark.parametrize(
    "text", ["", "loss", "loss == 1", "loss < ", "< 0.1", "loss < nan", "loss < a", 3, "a b < 1"]
)
def test_another_form_is_refused(text: object) -> None:
    with pytest.raises(ConfigurationError, match=r"stopWhen must be a metric.*'loss < 0.1'. Got"):
        Target.parse(text)


def test_the_param_is_checked_when_it_is_set_and_kept_as_text() -> None:
    estimator = DLEstimator(stopWhen="val_accuracy>=0.985")
    assert estimator.getStopWhen() == "val_accuracy >= 0.985"
    assert DLEstimator().getStopWhen() is None
    with pytest.raises(ConfigurationError, match="stopWhen must be a metric"):
        DLEstimator(stopWhen="soon")
