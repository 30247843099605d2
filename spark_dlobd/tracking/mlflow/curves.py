"""Learning curves as one picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from spark_dlobd.report import look
from spark_dlobd.report.plots import metric_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_IN = 3.0


def draw_curves(history: dict[str, list[float]], title: str = "") -> Figure:
    """Draw one panel per metric, training against validation. Runs on the driver.

    Parameters
    ----------
    history : dict of str to list of float
        Per-epoch values; ``val_loss`` belongs to ``loss``, and so on.
    title : str, optional
        Written above the panels.
    """
    names = metric_names(history)
    columns = 2 if len(names) == 4 else min(len(names), 3) or 1
    rows = math.ceil(len(names) / columns) or 1
    figure, panels = look.new_figure(rows, columns, _PANEL_IN * rows)
    for name, axes in zip(names, panels, strict=False):
        _draw_panel(axes, name, history)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    if title:
        figure.suptitle(title, fontsize=look.TITLE_PT, color=look.INK)
    return figure


def curves_png(history: dict[str, list[float]], title: str = "") -> bytes:
    """Return the picture of `draw_curves` as a PNG file."""
    return look.picture(draw_curves(history, title), "png")


def _draw_panel(axes: Axes, name: str, history: dict[str, list[float]]) -> None:
    training, validation = (
        list(enumerate(map(float, history.get(key, ())), 1)) for key in (name, f"val_{name}")
    )
    look.training_and_validation(axes, training, validation)
    epochs = max(1, len(training), len(validation))
    margin = max(0.5, 0.03 * epochs) if epochs == 1 else 0.03 * epochs
    axes.set_xlim(1 - margin, epochs + margin)
    look.whole_numbers(axes)
    axes.set_xlabel("epoch")
    axes.set_ylabel(name.replace("_", " "), parse_math=False)
