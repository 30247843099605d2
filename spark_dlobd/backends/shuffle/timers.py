"""Where the time of synchronizations goes. Pure."""

from __future__ import annotations

from spark_dlobd.backends.shuffle.wire.events import Worked
from spark_dlobd.report.schema import RankSeconds

PHASES = (
    "get_weights",
    "input",
    "compute",
    "put_gradients",
    "aggregate",
    "update",
    "keep_state",
    "put_weights",
    "scheduling",
)

_COMMUNICATION = ("get_weights", "put_gradients", "aggregate", "keep_state", "put_weights")


class Timers:
    """Sums what tasks tell.

    Workers run side by side, so a phase counts as long as its slowest worker takes. What
    is left of a job's time is Spark's: scheduling, shuffle files and network.
    """

    def __init__(self) -> None:
        self._told: dict[tuple[str, int, int], dict[int, float]] = {}
        self._done = dict.fromkeys(PHASES, 0.0)
        self._by_rank: dict[int, dict[str, float]] = {}
        self.last_job: dict[str, float] = {}
        self.synchronizations = 0

    def take(self, told: Worked) -> None:
        """Note the phases of one task."""
        for phase, seconds in told.seconds.items():
            ranks = self._told.setdefault((phase, told.epoch, told.step), {})
            ranks[told.rank] = max(ranks.get(told.rank, 0.0), seconds)

    def end_job(self, seconds: float, synchronizations: int) -> None:
        """Close a job that took `seconds`."""
        phases = dict.fromkeys(PHASES, 0.0)
        for (phase, _, _), ranks in self._told.items():
            phases[phase] += max(ranks.values())
            for rank, own in ranks.items():
                known = self._by_rank.setdefault(rank, dict.fromkeys(PHASES, 0.0))
                known[phase] += own
        phases["scheduling"] = max(seconds - sum(phases.values()), 0.0)
        for phase, value in phases.items():
            self._done[phase] += value
        self.last_job = {phase: round(value, 6) for phase, value in phases.items()}
        self.synchronizations += synchronizations
        self._told.clear()

    def ranks(self) -> list[RankSeconds]:
        """Seconds of each rank; it waits where another rank takes longer."""
        found = []
        slowest = sum(self._done.values()) - self._done["scheduling"]
        for rank, phases in sorted(self._by_rank.items()):
            working = sum(phases.values())
            found.append(
                RankSeconds(
                    rank=rank,
                    input=phases["input"],
                    compute=phases["compute"] + phases["update"],
                    communication=sum(phases[name] for name in _COMMUNICATION),
                    waiting=slowest - working,
                )
            )
        return found

    def report(self) -> dict[str, float]:
        """Seconds of each phase over the whole fit."""
        return {phase: round(seconds, 4) for phase, seconds in self._done.items()}
