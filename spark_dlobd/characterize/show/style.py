"""How a stack looks in figures: one colour a transport, the same in all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from spark_dlobd.characterize.results.comparison import Series
from spark_dlobd.report import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEGEND_LINES, _LEGEND_LINE_IN = 3, 0.18

# Backends differ in hue, transports of one backend in lightness; all of them can be seen on a
# light and on a dark page.
COLORS = {
    "process": "#7f8793",
    "gloo": "#2b6fbd",
    "mpi-tcp": "#56a0dc",
    "mpi-sm": "#5468c9",
    "ucx-tcp": "#7fb6e3",
    "ucx-sm": "#3b7f9e",
    "ucx-rdma": "#8a7fd6",
    "ring": "#c0392b",
    "mpi4py-tcp": "#8a4fa3",
    "mpi4py-sm": "#b07cc6",
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


def color(series: Series) -> str:
    """Colour of a stack."""
    return COLORS.get(series.case.transport, look.FAINT)


def bar_style(series: Series) -> dict[str, Any]:
    """Keywords of ``Axes.bar``."""
    hatch = _HATCHES[series.variant % len(_HATCHES)]
    return {"color": color(series), "hatch": hatch, "edgecolor": "white", "linewidth": 0}


def line_style(series: Series, points: int = 1) -> dict[str, Any]:
    """Keywords of ``Axes.plot``; markers where there are few points."""
    style: dict[str, Any] = {
        "color": color(series),
        "linestyle": _LINES[series.variant % len(_LINES)],
        **look.LINE,
    }
    if marker := look.marker(points):
        style |= marker | {"marker": _MARKERS.get(series.case.backend, "o")}
    return style


def legend(figure: Figure, axes: Axes, columns: int | None = None) -> None:
    """Put the legend below the panels, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    columns = columns or (1 if max(map(len, labels)) > 30 else 2)
    lines = math.ceil(len(labels) / columns)
    if lines > _LEGEND_LINES:  # or the panels would become low
        more = (lines - _LEGEND_LINES) * _LEGEND_LINE_IN
        figure.set_figheight(figure.get_figheight() + more)
    look.legend(
        figure, handles=handles, labels=labels, loc="outside lower center",
        ncols=min(columns, len(labels)),
    )  # fmt: skip
