"""Pictures of a report. Runs on the driver."""

from __future__ import annotations

import io
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
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LEGEND_RANKS = 8
_QUANTITIES = (
    ("cpu_percent", "CPU, % of a core", 1.0),
    ("rss_bytes", "memory, MiB", 2.0**20),
    ("sent_bytes_per_s", "host sends, MB/s", 1e6),
    ("received_bytes_per_s", "host receives, MB/s", 1e6),
    ("gpu_percent", "GPU, %", 1.0),
    ("gpu_memory_bytes", "GPU memory, MiB", 2.0**20),
)


def curves_over_time(report: Mapping[str, Any]) -> Figure | None:
    """One panel a metric over the seconds since the fit began; None without an epoch."""
    over_time = report["metrics_over_time"]
    names = list(dict.fromkeys(name.removeprefix("val_") for name in over_time))
    if not names:
        return None
    figure, panels = _panels(len(names))
    for name, axes in zip(names, panels, strict=False):
        for key, label, color in (
            (name, "training", _LINES[0]),
            (f"val_{name}", "validation", _LINES[1]),
        ):
            points = over_time.get(key, [])
            if points:
                seconds, values = [p[1] for p in points], [float(p[2]) for p in points]
                axes.plot(seconds, values, color=color, marker="o", markersize=3, label=label)
        axes.set_title(name, fontsize=10, loc="left")
        _finish(axes, "seconds since the fit began", legend=True)
    return figure


def utilization_over_time(report: Mapping[str, Any]) -> Figure | None:
    """One panel a quantity, one line a rank; None where nothing was sampled."""
    ranks: Sequence[Mapping[str, Any]] = report["utilization"]
    shown = [row for row in _QUANTITIES if any(row[0] in rank for rank in ranks)]
    if not shown:
        return None
    figure, panels = _panels(len(shown))
    for (field, title, unit), axes in zip(shown, panels, strict=False):
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
        axes.set_title(title, fontsize=10, loc="left")
        _finish(axes, "seconds since the fit began", legend=len(ranks) > 1)
    return figure


def shares_bars(report: Mapping[str, Any]) -> Figure | None:
    """Two bars of shares: of the whole fit and of its training steps; None if unknown."""
    bars = {"training steps": report["training_shares"], "whole fit": report["shares"]}
    if all(value is None for bar in bars.values() for value in bar.values()):
        return None
    figure, panels = _panels(1, size=(8.0, 2.2))
    axes = panels[0]
    for row, bar in enumerate(bars.values()):
        left = 0.0
        for part, color in COLORS.items():
            width = 100 * (bar[part] or 0.0)
            label = part.replace("_", "-") if row == 0 else None
            axes.barh(row, width, left=left, color=color, label=label)
            if width >= 6:
                ink = "white" if part == "start_up" else "black"
                axes.text(
                    left + width / 2, row, f"{width:.0f} %", ha="center", va="center", color=ink
                )
            left += width
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set_xlim(0, 100)
    _finish(axes, "% of the time", legend=False)
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=9)
    return figure


def svg(figure: Figure) -> str:
    """The picture as an element of an HTML page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _panels(count: int, size: tuple[float, float] | None = None) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=size or (4.4 * columns, 2.7 * rows))
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels


def _finish(axes: Axes, xlabel: str, legend: bool) -> None:
    axes.set_xlabel(xlabel, fontsize=9)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    if legend:
        axes.legend(frameon=False, fontsize=8)
