"""Which rank keeps the others waiting. Runs on the driver; pure."""

from __future__ import annotations

from dataclasses import dataclass

from spark_dlobd.processes.events import Attended


@dataclass
class _Rank:
    """What one rank told last, and when that changed."""

    told: Attended
    changed_at: float
    told_at: float


@dataclass(frozen=True)
class Stalled:
    """A rank that others wait for.

    Attributes
    ----------
    task : int
        Its partition.
    phase : str
        What it told last.
    seconds : float
        Since when it has come no further while others waited.
    silent : bool
        Whether its process has told nothing at all meanwhile.
    waiting : tuple of int
        Partitions of those that wait.
    """

    task: int
    phase: str
    seconds: float
    silent: bool
    waiting: tuple[int, ...]


class StallWatch:
    """Compares how far the ranks of a gang have come.

    A rank stalls when another one waits in a collective operation, and for `limit_s`
    seconds of that waiting this one has neither joined the operation nor begun or ended a
    step of training or validation, or its process has told nothing at all. A step in which
    TensorFlow may trace and compile does not count, so ranks that are slow together, in
    validation, in their first step or in a callback that all of them run, do not stall.

    Parameters
    ----------
    limit_s : float
        How long a rank may keep others waiting.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._ranks: dict[int, _Rank] = {}
        self._looked_at: float | None = None

    def take(self, task: int, told: Attended, now: float) -> None:
        """Note how far a rank has come."""
        before = self._ranks.get(task)
        stands = before is not None and before.told == told
        changed_at = before.changed_at if before is not None and stands else now
        self._ranks[task] = _Rank(told, changed_at, now)

    def stalled(self, now: float, limit_s: float | None = None) -> Stalled | None:
        """Return the rank that has kept others waiting for longest, if too long.

        Parameters
        ----------
        now : float
            Of the clock that `take` gets.
        limit_s : float, optional
            Instead of that of this object.
        """
        limit_s = self.limit_s if limit_s is None else limit_s
        self._forgive_own_pause(now)
        found = [self._stall_of(task, now) for task in self._ranks]
        late = [stall for stall in found if stall is not None and stall.seconds >= limit_s]
        return max(late, key=lambda stall: stall.seconds, default=None)

    def _forgive_own_pause(self, now: float) -> None:
        """A driver that was stopped itself has heard nobody: begin anew."""
        if self._looked_at is not None and now - self._looked_at > self.limit_s / 2:
            for rank in self._ranks.values():
                rank.changed_at = rank.told_at = now
        self._looked_at = now

    def _stall_of(self, task: int, now: float) -> Stalled | None:
        own = self._ranks[task]
        waiting = {
            other: rank
            for other, rank in self._ranks.items()
            if other != task and rank.told.waiting and now - rank.told_at < self.limit_s / 2
        }
        if not waiting or own.told.may_compile:
            return None
        front = max(rank.told.joined for rank in waiting.values())
        there = {other: rank for other, rank in waiting.items() if rank.told.joined == front}
        since = min(rank.changed_at for rank in there.values())
        silent_s = now - max(own.told_at, since)
        behind_s = now - max(own.changed_at, since) if own.told.joined < front else 0.0
        silent = silent_s >= self.limit_s / 2
        seconds = max(silent_s, behind_s)
        return Stalled(task, own.told.phase, seconds, silent, tuple(sorted(there)))


def heartbeat_s(stall_timeout_s: float) -> float:
    """Seconds between two heartbeats: a small part of the limit. Pure.

    Examples
    --------
    >>> [heartbeat_s(limit) for limit in (1, 10, 120)]
    [0.1, 0.5, 5.0]
    """
    return min(max(stall_timeout_s / 20, 0.1), 5.0)
