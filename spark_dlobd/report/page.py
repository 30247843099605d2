"""The report as one self-contained HTML page. Runs on the driver."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from spark_dlobd.report import blocks, words
from spark_dlobd.report.facts import fact_rows, phase_rows, system_rows
from spark_dlobd.report.plots import utilization_over_time

_PAGE_STYLE = """
:root { color-scheme: light dark; }
body { background: Canvas; color: CanvasText; margin: 0; padding: 1rem; }
.spark-dlobd { margin: 0 auto; }
"""
_NOTES = {
    "shares": "Waiting is for slower workers. Compute is what is left of a step: forward and "
    "backward pass, update and callbacks.",
    "utilization": "CPU and memory are those of the rank's process; network is that of its whole "
    "host, loopback included.",
}

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
    title = f"Fit of {name}, {words.how_text(report)}"
    parts = [
        blocks.head(report, status),
        blocks.limit(report),
        _section("Metrics over time", blocks.curves(report)),
        _section("Where the time went", blocks.shares(report), _NOTES["shares"]),
        _section("Seconds by phase", blocks.table(phase_rows(report), numbers=True)),
        _section(f"Time to {report['accuracy']['metric']}", _accuracy(report)),
        _section("Epochs", _epochs(report)),
        _section(
            "Utilization over time",
            blocks.charts(utilization_over_time(report)),
            _NOTES["utilization"],
        ),
        _section("Facts", blocks.table(fact_rows(report))),
        _section("Versions and machine of the driver", blocks.table(system_rows(report))),
        _section("Warnings", _list(report["warnings"])),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{blocks.STYLE}{_PAGE_STYLE}</style></head>"
        f'<body><main class="spark-dlobd">{"".join(parts)}</main></body></html>'
    )


def _section(heading: str, content: str, note: str = "") -> str:
    if not content:
        return ""
    below = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f"<h2>{escape(heading)}</h2>{content}{below}"


def _accuracy(report: Mapping[str, Any]) -> str:
    reached = report["accuracy"]["seconds"]
    rows = [(f"at least {level}", words.seconds_text(at)) for level, at in reached.items()]
    return blocks.table(rows, numbers=True)


def _epochs(report: Mapping[str, Any]) -> str:
    seconds, rates = report["epoch_seconds"], report["rows_per_second"]
    if not seconds or len(rates) != len(seconds):
        return ""
    cell = '<td class="number">'
    lines = "".join(
        f"<tr>{cell}{epoch}</td>{cell}{each:,.2f} s</td>{cell}{rate:,.0f}</td></tr>"
        for epoch, (each, rate) in enumerate(zip(seconds, rates, strict=True), 1)
    )
    head = "".join(f'<th class="number">{name}</th>' for name in ("epoch", "time", "rows/s"))
    table = f'<table class="facts"><tr>{head}</tr>{lines}</table>'
    if len(seconds) <= _MOST_EPOCHS:
        return table
    return f"<details><summary>{len(seconds):,} epochs</summary>{table}</details>"


def _list(texts: Any) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""
