"""What a fit tells the outside world while it runs.

A backend calls the `Reporter` from any thread; the reporter fans events out to
trackers and the progress line. Nothing here may stop or slow the training.
"""

from __future__ import annotations

from typing import Any, Protocol


class Tracker(Protocol):
    """Receives what happens during a fit. Runs on the driver.

    Methods return at once and never raise: a tracker that cannot deliver says
    so once in the log and keeps its records locally. It may also have ``dataset(description)``,
    which hears what is trained on, and ``tag(tags)``, which hears of tags that became known
    after the start.
    """

    def start(self, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Begin a run with its parameters and system facts."""

    def step(self, epoch: int, step: int, global_step: int, metrics: dict[str, float]) -> None:
        """Metrics of one training step; `epoch` and `step` count from 0."""

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Metrics of a whole epoch, averaged over all ranks."""

    def finish(
        self,
        status: str,
        history: dict[str, list[float]],
        report: dict[str, Any],
        model: Any | None,
    ) -> None:
        """End the run.

        Parameters
        ----------
        status : {"FINISHED", "FAILED", "KILLED"}
            How the fit ended.
        history : dict of str to list of float
            Per-epoch metrics; draws the learning curves.
        report : dict
            The report of the fit, JSON-able.
        model : keras.Model or None
            The trained model; None when the fit failed.
        """
