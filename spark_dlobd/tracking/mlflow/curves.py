"""Learning curves as one picture."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TRAIN = "#1f5fa8"
_VALIDATION = "#d9762b"


def draw_curves(history: dict[str, list[float]], title: str = "") -> Figure:
    """Draw one panel per metric, training against validation. Runs on the driver.

    Parameters
    ----------
    history : dict of str to list of float
        Per-epoch values; ``val_loss`` belongs to ``loss``, and so on.
    title : str, optional
        Written above the panels.

    Returns
    -------
    matplotlib.figure.Figure
        Made without pyplot, so nothing global changes and no window opens.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = _panel_names(history)
    columns = 2 if len(names) == 4 else min(len(names), 3) or 1
    rows = math.ceil(len(names) / columns) or 1
    figure = Figure(figsize=(4.8 * columns, 3.4 * rows), dpi=110)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for name, axes in zip(names, panels, strict=False):
        _draw_panel(axes, name, history)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def curves_png(history: dict[str, list[float]], title: str = "") -> bytes:
    """Return the picture of `draw_curves` as a PNG file."""
    buffer = io.BytesIO()
    draw_curves(history, title).savefig(buffer, format="png")
    return buffer.getvalue()


def _panel_names(history: dict[str, list[float]]) -> list[str]:
    names = dict.fromkeys(name.removeprefix("val_") for name in history)
    return sorted(names, key=lambda name: name != "loss")


def _draw_panel(axes: Axes, name: str, history: dict[str, list[float]]) -> None:
    longest = 1
    series: list[tuple[str, str, str, str]] = [
        (name, "training", _TRAIN, "-"),
        (f"val_{name}", "validation", _VALIDATION, "--"),
    ]
    for key, label, color, style in series:
        values = [float(value) for value in history.get(key, ())]
        if not values:
            continue
        longest = max(longest, len(values))
        marker: dict[str, Any] = {"marker": "o", "markersize": 4} if len(values) <= 30 else {}
        epochs = range(1, len(values) + 1)
        axes.plot(epochs, values, style, color=color, label=label, linewidth=1.6, **marker)
    _style(axes, name, longest)


def _style(axes: Axes, name: str, epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    margin = max(0.5, 0.03 * epochs) if epochs == 1 else 0.03 * epochs
    axes.margins(y=0.12)
    axes.set_xlim(1 - margin, epochs + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel(name.replace("_", " "))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
