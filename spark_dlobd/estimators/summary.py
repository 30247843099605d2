"""What a training left behind, under the names that Spark's summaries use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrainingSummary:
    """A view on the history and the report of a `DLModel`.

    Attributes
    ----------
    history : dict of str to list of float
        Metrics of every epoch, as ``model.history``.
    report : dict
        Facts about the training, as ``model.report``.

    Examples
    --------
    >>> summary = TrainingSummary({"loss": [0.5, 0.25], "val_loss": [0.6, 0.5]}, {})
    >>> summary.objectiveHistory, summary.totalIterations
    ([0.5, 0.25], 2)
    >>> summary.metrics
    {'loss': 0.25, 'val_loss': 0.5}
    """

    history: dict[str, list[float]]
    report: dict[str, Any]

    @property
    def objectiveHistory(self) -> list[float]:
        """Loss of the training rows, one value an epoch."""
        return list(self.history.get("loss", []))

    @property
    def totalIterations(self) -> int:
        """Number of epochs that were trained; fewer than asked for if the training was stopped."""
        return max((len(values) for values in self.history.values()), default=0)

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric after the last epoch."""
        return {name: values[-1] for name, values in self.history.items() if values}
