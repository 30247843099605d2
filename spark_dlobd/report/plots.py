"""Pictures of a report. Runs on the driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spark_dlobd.report import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEGEND_RANKS = 8
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
    figures = []
    for name in metric_names(over_time):
        figure, axes = _picture(name)
        training, validation = (
            [(point[1], float(point[2])) for point in over_time.get(key, [])]
            for key in (name, f"val_{name}")
        )
        look.training_and_validation(axes, training, validation)
        _over_seconds(axes)
        figures.append(figure)
    return figures


def metric_names(metrics: Mapping[str, Any]) -> list[str]:
    """Names of metrics, those of the validation rows with the others', loss first.

    Examples
    --------
    >>> metric_names({"val_acc": [], "acc": [], "loss": []})
    ['loss', 'acc']
    """
    names = dict.fromkeys(name.removeprefix("val_") for name in metrics)
    return sorted(names, key=lambda name: name != "loss")


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
            color = look.LINES[index % len(look.LINES)]
            marker = "o" if len(values) < 3 else None
            axes.plot(
                rank["seconds"], values, color=color, linewidth=1.2, label=label, marker=marker
            )
        axes.margins(y=0.15)
        axes.set_ylim(bottom=0)
        _over_seconds(axes)
        if len(ranks) > 1:
            look.legend(axes)
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
        for part, color in look.PARTS.items():
            width = 100 * (bar[part] or 0.0)
            if not width:
                continue
            axes.barh(0, width, left=left, color=color)
            if width >= 9:
                ink = "white" if part == "start_up" else "#000001"
                middle = left + width / 2
                look.note(axes, middle, 0, f"{width:.0f}", ha="center", va="center", color=ink)
            left += width
        axes.set_yticks([])
        axes.set_xlim(0, 100)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        figures.append(figure)
    return figures


def _picture(title: str, height: float = 2.6) -> tuple[Figure, Axes]:
    figure, (axes,) = look.new_figure(height=height)
    look.title(axes, title)
    return figure, axes


def _over_seconds(axes: Axes) -> None:
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("seconds since the fit began")
