"""The report as one self-contained HTML page. Runs on the driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spark_dlobd.report import look, pieces, words
from spark_dlobd.report.facts import fact_rows, phase_rows, system_rows
from spark_dlobd.report.pages import render
from spark_dlobd.report.plots import shares_bars, utilization_over_time

_MOST_EPOCHS = 20
"""More are folded."""


def report_page(report: Mapping[str, Any], status: str = "FINISHED") -> str:
    """Write the page.

    Parameters
    ----------
    report : mapping
        A `FitReport`.
    status : {"FINISHED", "FAILED", "KILLED"}
        How the fit ended.

    Returns
    -------
    str
        HTML that loads nothing from elsewhere, light or dark as its reader wants it.
    """
    name = (report.get("network") or {}).get("name") or "a network"
    accuracy = report["accuracy"]
    reached = accuracy["seconds"].items()
    return render(
        "spark_dlobd.report/report.html.j2",
        title=f"Fit of {name}, {words.how_text(report)}",
        head=pieces.report_head(report, status),
        limit=pieces.limit_text(report),
        curves=pieces.curves(report),
        shares=pieces.pictures(shares_bars(report)),
        parts=_parts(report),
        phases=phase_rows(report),
        metric=accuracy["metric"],
        reached=[(f"at least {level}", words.seconds_text(at)) for level, at in reached],
        epochs=_epochs(report),
        most_epochs=_MOST_EPOCHS,
        utilization=pieces.pictures(utilization_over_time(report)),
        facts=fact_rows(report),
        system=system_rows(report),
        warnings=report["warnings"],
    )


def _parts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and colours of the parts of time that there are."""
    bars = [report.get("shares") or {}, report.get("training_shares") or {}]
    return [
        (part.replace("_", "-"), color)
        for part, color in look.PARTS.items()
        if any(bar.get(part) for bar in bars)
    ]


def _epochs(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    seconds, rates = report["epoch_seconds"], report["rows_per_second"]
    if len(rates) != len(seconds):
        return []
    return [
        (str(epoch), f"{each:,.2f} s", f"{rate:,.0f}")
        for epoch, (each, rate) in enumerate(zip(seconds, rates, strict=True), 1)
    ]
