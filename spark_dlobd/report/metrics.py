"""The report's numbers as metrics of a tracking server. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any


def report_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Numbers worth comparing between fits, by name.

    Returns
    -------
    dict of str to float
        ``fit/seconds/<phase>``, ``fit/seconds/total``, ``fit/seconds/epoch`` and
        ``fit/rows_per_second`` (medians over epochs), ``fit/share/<part>`` (of the training
        steps), ``fit/seconds_to_target``, ``fit/seconds_to/<accuracy>`` and
        ``fit/bytes_sent_per_step``; those that are not known are left out.

    Examples
    --------
    >>> report_metrics({"seconds": {"train": 1.5}})
    {'fit/seconds/train': 1.5}
    """
    return {f"fit/{name}": float(value) for name, value in _numbers(report) if value is not None}


def _numbers(report: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for phase, seconds in report.get("seconds", {}).items():
        yield f"seconds/{phase}", seconds
    yield "seconds/total", report.get("total_seconds")
    for name, key in (("seconds/epoch", "epoch_seconds"), ("rows_per_second", "rows_per_second")):
        yield name, median(report[key]) if report.get(key) else None
    for part, share in report.get("training_shares", {}).items():
        yield f"share/{part}", share
    yield "seconds_to_target", report.get("seconds_to_target")
    for accuracy, seconds in report.get("accuracy", {}).get("seconds", {}).items():
        yield f"seconds_to/{accuracy}", seconds
    yield "bytes_sent_per_step", report.get("bytes_sent_per_step")
