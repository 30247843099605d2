"""What an epoch takes, as reports, trackers, sweeps and predictions say it. Pure.

An epoch's seconds are those of its training steps: start-up, validation and what lies between
epochs are left out. Where there are several epochs the first is left out of means, because it
also traces the model. `cost.model` predicts such an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, harmonic_mean
from typing import Any


def later(values: Sequence[float]) -> Sequence[float]:
    """Values of all epochs but the first, or that one if there is no other.

    Examples
    --------
    >>> later([9.0, 2.0, 3.0]), later([9.0])
    ([2.0, 3.0], [9.0])
    """
    return values[1:] or values


def seconds_per_epoch(report: Mapping[str, Any]) -> float | None:
    """Mean of later epochs; None where none is known.

    Examples
    --------
    >>> seconds_per_epoch({"epoch_seconds": [9.0, 2.0, 3.0]})
    2.5
    """
    seconds = report.get("epoch_seconds")
    return fmean(later(seconds)) if seconds else None


def rows_per_second(report: Mapping[str, Any]) -> float | None:
    """Rows of later epochs by their seconds; None where none is known.

    Examples
    --------
    >>> rows_per_second({"rows_per_second": [50.0, 100.0, 300.0]})  # 2 / (1/100 + 1/300)
    150.0
    """
    rates = report.get("rows_per_second")
    # rows are equal in every epoch, so the mean rate is the harmonic one
    return harmonic_mean(later(rates)) if rates else None
