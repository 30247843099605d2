"""The report's numbers as metrics of a tracking server. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spark_dlobd.report import epochs

PREFIX = "system/fit/"


def report_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """The few numbers by which fits are compared and sorted; the report has all others.

    Returns
    -------
    dict of str to float
        ``seconds``, ``seconds_per_epoch`` and ``rows_per_second`` (as `report.epochs` has them),
        ``seconds_to_target`` and ``bytes_sent_per_step``, all behind ``system/fit/`` and
        rounded to three digits after the point; those that are not known are left out, and
        so are bytes where nothing is sent.

    Notes
    -----
    MLflow draws what begins with ``system/`` on a page of its own, so that the learning
    curves stand alone among the metrics of the model. It lists them before those, so they
    are few.

    Examples
    --------
    >>> report_metrics({"total_seconds": 1.50049})
    {'system/fit/seconds': 1.5}
    """
    numbers = _numbers(report)
    return {f"{PREFIX}{name}": round(float(n), 3) for name, n in numbers if n is not None}


def _numbers(report: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    yield "seconds", report.get("total_seconds")
    yield "seconds_per_epoch", epochs.seconds_per_epoch(report)
    yield "rows_per_second", epochs.rows_per_second(report)
    yield "seconds_to_target", report.get("seconds_to_target")
    yield "bytes_sent_per_step", report.get("bytes_sent_per_step") or None
