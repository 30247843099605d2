"""How the figures look: one colour a transport, the same in all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from spark_dlobd.characterize.results.comparison import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#24292f", "#6b7280"

WIDTH_IN = 4.2
"""Of a figure; a phone and a third of a page show it in about its own size."""

_LEGEND_LINES, _LEGEND_LINE_IN = 3, 0.18

# Backends differ in hue, transports of one backend in lightness.
_COLORS = {
    "process": "#7f8793",
    "gloo": "#1f5fa8",
    "mpi-tcp": "#56a0dc",
    "mpi-sm": "#0c3260",
    "ucx-tcp": "#9cc9ee",
    "ucx-sm": "#3b7f9e",
    "ucx-rdma": "#6f6bb5",
    "ring": "#c0392b",
    "mpi4py-tcp": "#8a4fa3",
    "mpi4py-sm": "#4d2a5e",
    "grpc": "#d9762b",
    "spark": "#2b8a5b",
}
_MARKERS = {
    "local": "s",
    "horovod": "o",
    "parameter_server": "^",
    "shuffle": "D",
    "collective": "v",
}
_LINES = ("-", "--", ":", "-.")
_HATCHES = ("", "///", "...", "xxx")
RANKS = ("#1f5fa8", "#d9762b", "#2b8a5b", "#8a4fa3", "#b8860b", "#c0392b", "#3b7f9e", "#7f8793")
PARTS = {
    "compute": "#2b8a5b",
    "input": "#b8860b",
    "communication": "#c0392b",
    "waiting": "#e7a49b",
    "spark": "#d9762b",
    "start_up": "#9aa4b2",
    "other": "#d5dae1",
}


def new_figure(rows: int = 1, height: float = 3.9) -> tuple[Figure, list[Axes]]:
    """A figure of one column that a phone can show; made without pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height), dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, 1, squeeze=False, sharex=rows > 1).flatten())
    for axes in panels:
        axes.grid(axis="y", alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
    return figure, panels


def color(series: Series) -> str:
    """Colour of a stack."""
    return _COLORS.get(series.case.transport, INK)


def bar_style(series: Series) -> dict[str, Any]:
    """Keywords of ``Axes.bar``."""
    hatch = _HATCHES[series.variant % len(_HATCHES)]
    return {"color": color(series), "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}


def line_style(series: Series, points: int = 1) -> dict[str, Any]:
    """Keywords of ``Axes.plot``; markers where there are few points."""
    style: dict[str, Any] = {
        "color": color(series),
        "linestyle": _LINES[series.variant % len(_LINES)],
        "linewidth": 1.7,
    }
    if points <= 30:
        style |= {"marker": _MARKERS.get(series.case.backend, "o"), "markersize": 4.5}
    return style


def legend(figure: Figure, axes: Axes) -> None:
    """Put the legend below the panels, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 1 if max(map(len, labels)) > 30 else 2
        lines = math.ceil(len(labels) / columns)
        if lines > _LEGEND_LINES:  # or the panels would become low
            more = (lines - _LEGEND_LINES) * _LEGEND_LINE_IN
            figure.set_figheight(figure.get_figheight() + more)
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(columns, len(labels)),
            frameon=False, fontsize=8.5,
        )  # fmt: skip
