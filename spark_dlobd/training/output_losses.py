"""The loss of each of several outputs as a mean over rows.

Keras counts every batch as one where it does not know the number of its rows while it
traces, so that a short last batch counts like a full one, and a batch that is not there any
more counts too.
"""

from __future__ import annotations

from typing import Any


def weigh_by_rows(model: Any) -> None:
    """Let the trackers of a compiled model's losses by output count rows. Changes the model.

    Nothing is changed where there is one loss, which Keras weighs by rows itself.
    """
    import keras

    losses = getattr(model, "_compile_loss", None)
    if losses is None:
        return
    rows: list[Any] = [None]
    build, call = losses.build, losses.call

    def build_with_rows(y_true: Any, y_pred: Any) -> None:
        build(y_true, y_pred)
        for tracker in losses.metrics:
            _weigh(tracker, rows)

    def call_with_rows(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        rows[0] = keras.ops.shape(keras.tree.flatten(y_pred)[0])[0]
        try:
            return call(y_true, y_pred, sample_weight)
        finally:
            rows[0] = None

    losses.build, losses.call = build_with_rows, call_with_rows


def _weigh(tracker: Any, rows: list[Any]) -> None:
    update = tracker.update_state

    def update_with_rows(values: Any, sample_weight: Any = None) -> None:
        update(values, sample_weight=rows[0])

    tracker.update_state = update_with_rows
