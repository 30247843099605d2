"""Pictures of a report. Runs on the driver."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart
COLORS = {
    "input": "#56B4E9",
    "compute": "#009E73",
    "communication": "#E69F00",
    "waiting": "#CC79A7",
    "spark": "#D55E00",
    "start_up": "#0072B2",
    "other": "#BBBBBB",
}
_INK = "#010203"
"""Stands for the colour of the page's text, light or dark."""
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", _INK)
_LEGEND_RANKS = 8
_MARKED_POINTS = 60
_QUANTITIES = (
    ("cpu_percent", "CPU, % of a core", 1.0),
    ("rss_bytes", "memory, MiB", 2.0**20),
    ("sent_bytes_per_s", "host sends, MB/s", 1e6),
    ("received_bytes_per_s", "host receives, MB/s", 1e6),
    ("gpu_percent", "GPU, %", 1.0),
    ("gpu_memory_bytes", "GPU memory, MiB", 2.0**20),
)


def curves_over_time(report: Mapping[str, Any]) -> list[Figure]:
    """One picture a metric over the seconds since the fit began, loss first."""
    over_time = report.get("metrics_over_time") or {}
    names = dict.fromkeys(name.removeprefix("val_") for name in over_time)
    figures = []
    for name in sorted(names, key=lambda name: name != "loss"):
        figure, axes = _picture(name)
        for key, label, color in (
            (name, "training", _LINES[0]),
            (f"val_{name}", "validation", _LINES[1]),
        ):
            points = over_time.get(key, [])
            if points:
                seconds, values = [p[1] for p in points], [float(p[2]) for p in points]
                marker = "o" if len(points) <= _MARKED_POINTS else None
                axes.plot(seconds, values, color=color, marker=marker, markersize=3, label=label)
        _finish(axes, legend=True)
        figures.append(figure)
    return figures


def utilization_over_time(report: Mapping[str, Any]) -> list[Figure]:
    """One picture a quantity, one line a rank; none where nothing was sampled."""
    ranks: Sequence[Mapping[str, Any]] = report.get("utilization") or []
    figures = []
    for field, title, unit in _QUANTITIES:
        if not any(field in rank for rank in ranks):
            continue
        figure, axes = _picture(title)
        for index, rank in enumerate(ranks):
            values = [value / unit for value in rank.get(field, [])]
            label = f"rank {rank['rank']}" if index < _LEGEND_RANKS else None
            color = _LINES[index % len(_LINES)]
            marker = "o" if len(values) < 3 else None
            axes.plot(
                rank["seconds"], values, color=color, linewidth=1.2, label=label, marker=marker
            )
        axes.margins(y=0.15)
        axes.set_ylim(bottom=0)
        _finish(axes, legend=len(ranks) > 1)
        figures.append(figure)
    return figures


def shares_bars(report: Mapping[str, Any]) -> list[Figure]:
    """Shares of the whole fit and of its training steps, a bar each; none if unknown."""
    bars = {"whole fit": report.get("shares"), "training steps": report.get("training_shares")}
    figures = []
    for title, bar in bars.items():
        if not bar or all(value is None for value in bar.values()):
            continue
        figure, axes = _picture(f"{title}, % of the time", height=0.9)
        left = 0.0
        for part, color in COLORS.items():
            width = 100 * (bar[part] or 0.0)
            if not width:
                continue
            axes.barh(0, width, left=left, color=color)
            if width >= 9:
                ink = "white" if part == "start_up" else "#000001"
                middle = left + width / 2
                axes.text(middle, 0, f"{width:.0f}", ha="center", va="center", color=ink)
            left += width
        axes.set_yticks([])
        axes.set_xlim(0, 100)
        axes.spines[:].set_visible(False)
        axes.tick_params(labelsize=9, colors=_INK)
        figures.append(figure)
    return figures


def svg(figure: Figure) -> str:
    """The picture as an element of an HTML page, in the page's font and colour of text."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # its rule would hold for the whole page
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"font(-family)?: [^;\"]*?'DejaVu Sans'[^;\"]*", _font, text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = text.replace("; ;", ";")
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # several pictures stand in one page
    return re.sub(r"\s*\n\s*", " ", text.replace(_INK, "currentColor"))


def _font(found: re.Match[str]) -> str:
    size = re.search(r"([\d.]+)px", found.group())
    return f"font-size: {size.group(1)}px" if size else ""


def _picture(title: str, height: float = 2.6) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, height))
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    # a name may hold signs that mathematics would be made of
    axes.set_title(title, fontsize=10, loc="left", color=_INK, parse_math=False)
    return figure, axes


def _finish(axes: Axes, legend: bool) -> None:
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("seconds since the fit began", fontsize=9, color=_INK)
    axes.grid(alpha=0.2, linewidth=0.6, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(_INK)
    axes.tick_params(labelsize=9, colors=_INK)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, labelcolor=_INK)
