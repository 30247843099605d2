"""Pieces of HTML that the page of a report and the notebook's view are made of.

Runs on the driver. Colours come from the page around them, light or dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from spark_dlobd.report import words
from spark_dlobd.report.plots import COLORS, curves_over_time, shares_bars, svg

STYLE = """
.spark-dlobd { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; overflow-wrap: anywhere; }
.spark-dlobd h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; }
.spark-dlobd h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.spark-dlobd p { margin: .5rem 0; }
.spark-dlobd .soft { opacity: .75; font-size: .9rem; }
.spark-dlobd .tiles { display: flex; flex-wrap: wrap; gap: .5rem; margin: .8rem 0; }
.spark-dlobd .tile { border: 1px solid rgba(128, 128, 128, .4); border-radius: 6px;
  padding: .25rem .8rem; }
.spark-dlobd .tile b { display: block; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.spark-dlobd .tile span { opacity: .75; font-size: .85rem; }
.spark-dlobd .limit { border-left: 4px solid #0072B2; background: rgba(0, 114, 178, .12);
  padding: .5rem .8rem; }
.spark-dlobd .charts { display: grid; gap: .5rem 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); }
.spark-dlobd svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
.spark-dlobd .legend { display: flex; flex-wrap: wrap; gap: .1rem .9rem; font-size: .85rem; }
.spark-dlobd .legend i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; }
.spark-dlobd table.facts { border-collapse: collapse; margin: 0; width: auto; font-size: .92rem; }
.spark-dlobd table.facts th, .spark-dlobd table.facts td { text-align: left; vertical-align: top;
  padding: .2rem 1.2rem .2rem 0; border: 0; border-bottom: 1px solid rgba(128, 128, 128, .3);
  background: none; white-space: normal; max-width: none; }
.spark-dlobd table.facts th { font-weight: 600; min-width: 8rem; overflow-wrap: normal; }
.spark-dlobd table.facts .number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; min-width: 0; }
.spark-dlobd summary { cursor: pointer; }
"""
_MOST_TILES = 4


def head(report: Mapping[str, Any], status: str = "FINISHED", kind: str = "") -> str:
    """What was trained, when and how, and what came out; `kind` stands before its name."""
    title = words.network_text(report["network"]) if report.get("network") else "Fit"
    title = f"{kind}: {title}" if kind else title
    ended = f"{status.lower()} after {words.seconds_text(report['total_seconds'])}"
    when = [words.date_text(report["started_at"])] if report.get("started_at") else []
    told = ", ".join([*when, words.how_text(report), ended])
    tiles = [(name, words.metric_text(v)) for name, v in words.last_metrics(report).items()]
    tiles = [*tiles[:_MOST_TILES], ("seconds", words.seconds_text(report["total_seconds"]))]
    shown = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in tiles
    )
    above = f'<h1>{escape(title)}</h1><p class="soft">{escape(told)}</p>'
    return f'{above}<div class="tiles">{shown}</div>'


def limit(report: Mapping[str, Any]) -> str:
    """The paragraph on what limits the fit; empty where there is none."""
    text = (report.get("limit") or {}).get("text")
    return f'<p class="limit">{escape(text)}</p>' if text else ""


def curves(report: Mapping[str, Any]) -> str:
    """Metrics over time."""
    return charts(curves_over_time(report))


def shares(report: Mapping[str, Any]) -> str:
    """Where the time went, with the meaning of the colours."""
    figures = shares_bars(report)
    if not figures:
        return ""
    bars = [report.get("shares") or {}, report.get("training_shares") or {}]
    legend = "".join(
        f'<span><i style="background: {color}"></i>{escape(part.replace("_", "-"))}</span>'
        for part, color in COLORS.items()
        if any(bar.get(part) for bar in bars)
    )
    return f'{charts(figures)}<div class="legend">{legend}</div>'


def charts(figures: Iterable[Any]) -> str:
    """Pictures beside each other where there is room, else one above the other."""
    drawn = "".join(f"<div>{svg(figure)}</div>" for figure in figures)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def table(rows: Iterable[tuple[str, str]], numbers: bool = False) -> str:
    """Two columns, names and values; values to the right if they are `numbers`."""
    kind = ' class="number"' if numbers else ""
    lines = "".join(
        f"<tr><th>{escape(name)}</th><td{kind}>{escape(value)}</td></tr>" for name, value in rows
    )
    return f'<table class="facts">{lines}</table>' if lines else ""
