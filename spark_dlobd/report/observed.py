"""What the driver sees of a running fit, with the times at which it saw it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from spark_dlobd.training.series import POINTS, Series


class Observed:
    """Collects epochs, moments and what ranks measured. Runs on the driver.

    Parameters
    ----------
    began : float
        When the fit began, of `clock`.
    clock : callable
        Seconds that only grow.
    """

    def __init__(self, began: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._began = began
        self._clock = clock
        self._wall_began = time.time() - (clock() - began)
        self.epochs: dict[int, tuple[float, dict[str, float]]] = {}
        """Epoch to its end, in seconds since the fit began, and its metrics."""
        self.moments: dict[str, float] = {}
        """``train``: the first epoch began; ``collect``: the last one was over."""
        self.ranks: dict[int, dict[int, dict[str, Any]]] = {}
        """Rank to epoch to the seconds that `training.measure` tells."""
        self.utilization: dict[int, Series] = {}
        self.problems: dict[str, None] = {}
        """What could not be measured, in words, each once."""

    @property
    def now(self) -> float:
        """Seconds since the fit began."""
        return self._clock() - self._began

    @property
    def started_at(self) -> str:
        """When the fit began, in ISO 8601 and UTC."""
        began = datetime.fromtimestamp(self._wall_began, timezone.utc)
        return began.isoformat(timespec="seconds")

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Note the end of an epoch; told again it replaces those that followed."""
        for later in [known for known in self.epochs if known >= epoch]:
            del self.epochs[later]
        self.epochs[epoch] = (self.now, metrics)

    def worker_phase(self, text: str) -> None:
        """Note when workers first said that they train, or that they are done."""
        for moment in ("train", "collect"):
            if text.startswith(moment):
                self.moments.setdefault(moment, self.now)

    def measured(self, rank: int, facts: dict[str, Any]) -> None:
        """Take what one rank measured.

        Parameters
        ----------
        rank : int
            Which.
        facts : dict
            ``times``: seconds of one epoch with its number as ``epoch``;
            ``utilization``: ``fields`` and ``points`` of `Series`, times since 1970;
            ``problem``: what could not be measured. All optional.
        """
        if "times" in facts:
            self.ranks.setdefault(rank, {})[facts["times"]["epoch"]] = facts["times"]
        if facts.get("problem"):
            self.problems[str(facts["problem"])] = None
        sampled = facts.get("utilization")
        if sampled:
            series = self.utilization.setdefault(rank, Series(sampled["fields"], POINTS))
            for wall, *values in sampled["points"]:
                series.add([wall - self._wall_began, *values])
