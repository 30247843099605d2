"""What the page of a report and the notebook's view have in common. Runs on the driver."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spark_dlobd.report import look, words
from spark_dlobd.report.plots import curves_over_time

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

_MOST_TILES = 4


@dataclass(frozen=True)
class Head:
    """What stands first.

    Attributes
    ----------
    title, told : str
        What it is about, and some words on it.
    tiles : tuple of (str, str)
        Names and values of the results.
    """

    title: str
    told: str
    tiles: tuple[tuple[str, str], ...] = ()


def report_head(report: Mapping[str, Any], status: str = "FINISHED", kind: str = "") -> Head:
    """What was trained, when and how, and what came out; `kind` stands before its name."""
    title = words.network_text(report["network"]) if report.get("network") else "Fit"
    ended = f"{status.lower()} after {words.seconds_text(report['total_seconds'])}"
    when = [words.date_text(report["started_at"])] if report.get("started_at") else []
    tiles = [(name, words.metric_text(v)) for name, v in words.last_metrics(report).items()]
    seconds = ("seconds", words.seconds_text(report["total_seconds"]))
    return Head(
        f"{kind}: {title}" if kind else title,
        ", ".join([*when, words.how_text(report), ended]),
        (*tiles[:_MOST_TILES], seconds),
    )


def limit_text(report: Mapping[str, Any]) -> str:
    """What limits the fit; empty where it is not known."""
    return (report.get("limit") or {}).get("text") or ""


def curves(report: Mapping[str, Any]) -> list[Markup]:
    """Metrics over time."""
    return pictures(curves_over_time(report))


def pictures(figures: Iterable[Figure]) -> list[Markup]:
    """Figures as elements of a page."""
    from markupsafe import Markup

    return [Markup(look.svg(figure)) for figure in figures]
