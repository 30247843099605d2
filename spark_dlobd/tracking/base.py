"""What a fit tells the outside world while it runs.

A user passes a tracker to the estimator. The `Reporter` of each fit takes what its `new`
returns, a backend calls the reporter from any thread, and the reporter fans events out to
them and the progress line. Nothing here may stop or slow the training.
"""

from __future__ import annotations

from typing import Any


class Tracker:
    """Receives what happens during a fit. Runs on the driver.

    Subclass it and override what you need: every method here does nothing. Methods should
    return at once. One that raises is logged, and the tracker is left out for the rest of
    the fit.

    Examples
    --------
    >>> class Losses(Tracker):
    ...     def epoch(self, epoch, metrics):
    ...         print(epoch, metrics["loss"])
    >>> Losses().epoch(0, {"loss": 0.5})
    0 0.5
    """

    def new(self) -> Tracker:
        """Return what hears of one more fit; fits may run at the same time.

        Trackers that keep something of a fit return an object of its own for each and
        remember the last one, to say where that fit was recorded.
        """
        return self

    def start(self, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Begin a run with its parameters and system facts."""

    def dataset(self, description: dict[str, Any]) -> None:
        """Hear what is trained on, as `reporter.describe_dataset` describes it."""

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

    def ids(self) -> dict[str, str]:
        """Return under which ids the finished fit can be found, for the report."""
        return {}

    def last_words(self) -> list[str]:
        """Return sentences that say after the fit where it was recorded."""
        return []
