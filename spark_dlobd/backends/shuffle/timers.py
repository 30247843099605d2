"""Where the time of synchronizations goes. Pure."""

from __future__ import annotations

from typing import Any

PHASES = (
    "get_weights",
    "compute",
    "put_gradients",
    "aggregate",
    "update",
    "keep_state",
    "put_weights",
    "scheduling",
)


class Timers:
    """Sums what tasks tell.

    Workers run side by side, so a phase counts as long as its slowest worker takes. What
    is left of a job's time is Spark's: scheduling, shuffle files and network.
    """

    def __init__(self) -> None:
        self._slowest: dict[tuple[str, int, int], float] = {}
        self._done = dict.fromkeys(PHASES, 0.0)
        self.last_job: dict[str, float] = {}
        self.synchronizations = 0

    def take(self, event: dict[str, Any]) -> None:
        """Note the phases of one task."""
        for phase, seconds in event["seconds"].items():
            key = (phase, event["epoch"], event["step"])
            self._slowest[key] = max(self._slowest.get(key, 0.0), seconds)

    def end_job(self, seconds: float, synchronizations: int) -> None:
        """Close a job that took `seconds`."""
        phases = dict.fromkeys(PHASES, 0.0)
        for (phase, _, _), slowest in self._slowest.items():
            phases[phase] += slowest
        phases["scheduling"] = max(seconds - sum(phases.values()), 0.0)
        for phase, value in phases.items():
            self._done[phase] += value
        self.last_job = {phase: round(value, 6) for phase, value in phases.items()}
        self.synchronizations += synchronizations
        self._slowest.clear()

    def report(self) -> dict[str, float]:
        """Seconds of each phase over the whole fit."""
        return {phase: round(seconds, 4) for phase, seconds in self._done.items()}
