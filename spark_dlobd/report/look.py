"""How every figure looks: colours, sizes and axes. Runs on the driver.

Figures are made without pyplot, so nothing global changes and no window opens.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, FAILED = "#24292f", "#7d8794", "#b42318"
"""Of texts and axes, where `svg` takes the page's colour for INK; of what stands back; of what
is wrong."""

# Okabe and Ito's colours, which the colour-blind can tell apart
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", FAINT)
PARTS = {
    "input": "#56B4E9",
    "compute": "#009E73",
    "communication": "#E69F00",
    "waiting": "#CC79A7",
    "spark": "#D55E00",
    "start_up": "#0072B2",
    "other": "#999999",
}
"""Of the time of a fit."""

WIDTH_IN = 4.2
"""Of a panel; a phone and a third of a page show it in about its own size."""
TITLE_PT, TEXT_PT, SMALL_PT = 10, 9, 8.5
LINE: dict[str, Any] = {"linewidth": 1.6}
_GRID: dict[str, Any] = {"alpha": 0.25, "linewidth": 0.6, "color": INK}
_MARKED_POINTS = 60


def new_figure(
    rows: int = 1, columns: int = 1, height: float = 2.6, grid: str = "both"
) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, from the top left on.

    Parameters
    ----------
    rows, columns : int
        Of panels; those above each other share the horizontal axis.
    height : float
        Of the figure in inches; its width follows from the columns.
    grid : {"both", "x", "y"}
        Across which axes there are lines.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN * columns, height), dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    FigureCanvasAgg(figure)
    shared = rows > 1 and columns == 1
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=shared).flatten())
    for axes in panels:
        axes.grid(axis=grid, **_GRID)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set_color(INK)
        axes.tick_params(colors=INK, labelsize=TEXT_PT)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set(color=INK, fontsize=TEXT_PT)
    return figure, panels


def title(axes: Axes, text: str) -> None:
    """Write `text` above a panel."""
    # a name may hold signs that mathematics would be made of
    axes.set_title(text, fontsize=TITLE_PT, loc="left", color=INK, parse_math=False)


def note(axes: Axes, x: float, y: float, text: str, **more: Any) -> None:
    """Write `text` into a panel."""
    axes.text(x, y, text, **{"fontsize": SMALL_PT, "color": INK, **more})


def legend(where: Figure | Axes, **more: Any) -> None:
    """Put a legend; of a figure, below its panels, where it covers nothing."""
    where.legend(**{"frameon": False, "fontsize": SMALL_PT, "labelcolor": INK, **more})


def marker(points: int) -> dict[str, Any]:
    """Keywords of ``Axes.plot``: markers where there are few points."""
    return {"marker": "o", "markersize": 3.5} if points <= _MARKED_POINTS else {}


def whole_numbers(axes: Axes) -> None:
    """Count along the horizontal axis."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def training_and_validation(
    axes: Axes, training: Sequence[tuple[float, float]], validation: Sequence[tuple[float, float]]
) -> None:
    """Draw a metric as two lines, each of points ``(x, value)``."""
    lines = (("training", training, LINES[0], "-"), ("validation", validation, LINES[1], "--"))
    for label, points, color, style in lines:
        if points:
            x, values = zip(*points, strict=True)
            axes.plot(x, values, style, color=color, label=label, **LINE, **marker(len(points)))
    axes.margins(y=0.12)
    if axes.get_legend_handles_labels()[0]:
        legend(axes)


def picture(figure: Figure, kind: str, name: str = "") -> bytes:
    """The figure as a file, the same for the same numbers.

    Parameters
    ----------
    kind : {"png", "svg"}
        Of the file.
    name : str
        Of the figure.
    """
    return _saved(figure, kind, {"svg.hashsalt": name or "figure"})


def svg(figure: Figure, name: str = "") -> str:
    """The figure as an element of an HTML page, in the page's font and colour of text.

    Parameters
    ----------
    name : str
        Of the figure, for those who do not see it.
    """
    settings = {"svg.fonttype": "none", "svg.hashsalt": name or "figure"}
    text = _saved(figure, "svg", settings, transparent=True).decode("utf-8")
    text = text[text.index("<svg") :]
    # its rule would hold for the whole page
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    label = f' role="img" aria-label="{escape(name)}"' if name else ""
    text = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg", f"<svg{label}", 1)
    text = re.sub(r"font(-family)?: [^;\"]*?'DejaVu Sans'[^;\"]*", _font, text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = text.replace("; ;", ";")
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # several pictures stand in one page
    return re.sub(r"\s*\n\s*", " ", text.replace(INK, "currentColor"))


def _saved(figure: Figure, kind: str, settings: Any, transparent: bool = False) -> bytes:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) if kind == "svg" else {}
    with rc_context(settings):
        figure.savefig(buffer, format=kind, metadata=metadata, transparent=transparent)
    return buffer.getvalue()


def _font(found: re.Match[str]) -> str:
    size = re.search(r"([\d.]+)px", found.group())
    return f"font-size: {size.group(1)}px" if size else ""
