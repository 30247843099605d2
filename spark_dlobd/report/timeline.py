"""Metrics over time, and when they reached what. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from spark_dlobd.job.target import Target
from spark_dlobd.report.schema import AccuracyReached

LEVELS = (0.7, 0.8, 0.9, 0.95, 0.98, 0.985, 0.99)
_ACCURACIES = (
    "accuracy",
    "acc",
    "sparse_categorical_accuracy",
    "categorical_accuracy",
    "binary_accuracy",
)

Epochs = Mapping[int, tuple[float, dict[str, float]]]
"""Epoch to its end, in seconds since the fit began, and its metrics."""


def metrics_over_time(epochs: Epochs) -> dict[str, list[list[float]]]:
    """Metric to a list of ``[epoch, seconds, value]``.

    Examples
    --------
    >>> metrics_over_time({0: (2.5, {"loss": 0.7}), 1: (4.0, {"loss": 0.5})})
    {'loss': [[0, 2.5, 0.7], [1, 4.0, 0.5]]}
    """
    found: dict[str, list[list[float]]] = {}
    for epoch, (seconds, metrics) in sorted(epochs.items()):
        for name, value in metrics.items():
            found.setdefault(name, []).append([epoch, round(seconds, 3), value])
    return found


def accuracy_metric(names: Mapping[str, object]) -> str | None:
    """The accuracy to follow: of the validation rows if there is one."""
    wanted = [*(f"val_{name}" for name in _ACCURACIES), *_ACCURACIES]
    return next((name for name in wanted if name in names), None)


def accuracy_reached(over_time: Mapping[str, list[list[float]]]) -> AccuracyReached:
    """Seconds to each of `LEVELS` that was reached, at the first end of an epoch that did."""
    metric = accuracy_metric(over_time)
    if metric is None:
        return AccuracyReached(metric=None, seconds={})
    reached = {}
    for level in LEVELS:
        seconds = _first(over_time[metric], Target(metric, ">=", level))
        if seconds is not None:
            reached[f"{level:g}"] = seconds
    return AccuracyReached(metric=metric, seconds=reached)


def seconds_to_target(
    over_time: Mapping[str, list[list[float]]], target: Target | None
) -> float | None:
    """Seconds to the end of the first epoch that reached `target`; None if none did."""
    return None if target is None else _first(over_time.get(target.metric, []), target)


def _first(points: list[list[float]], target: Target) -> float | None:
    return next((seconds for _, seconds, value in points if target.reached(value)), None)
