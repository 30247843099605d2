"""Which rank is slower than the others, epoch after epoch. Runs on the driver; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

_FACTOR = 1.5
_LEAST_EXCESS_S = 2.0
_EPOCHS_IN_A_ROW = 2


@dataclass(frozen=True)
class SlowRank:
    """A rank that the others wait for in every step.

    Attributes
    ----------
    rank : int
        Which.
    host : str
        Where.
    epoch : int
        The last of the epochs in which it was slow, from 0.
    seconds, others : float
        What it needed for reading and computing, and the median of the others.
    part : {"input", "compute"}
        In which of the two it lost more.
    """

    rank: int
    host: str
    epoch: int
    seconds: float
    others: float
    part: Literal["input", "compute"]

    def __str__(self) -> str:
        what = "reading rows" if self.part == "input" else "computing"
        advice = (
            "Look for slow storage there, or a reading thread without a core of its own "
            "(spark.task.cpus)."
            if self.part == "input"
            else "Look for a host that is busy, throttled or has fewer cores, and for ranks that "
            "share cores; where hosts differ, backend='parameter_server' lets a slow worker do "
            "less."
        )
        return (
            f"Rank {self.rank} on {self.host} keeps the others waiting: in epoch {self.epoch} it "
            f"needed {self.seconds:.1f} s for reading and computing, the others "
            f"{self.others:.1f} s; it loses most in {what}. {advice}"
        )


class PaceWatch:
    """Compares what ranks needed for the same steps.

    Synchronous ranks all take as long as the slowest, so what counts is an epoch's time
    without communication, waiting and tracing. A rank is slow that needs at least half as
    much again as the median of the others, and two seconds more, in two epochs in a row.

    Parameters
    ----------
    size : int
        Number of ranks.

    Examples
    --------
    >>> watch = PaceWatch(2)
    >>> def times(epoch, waiting):
    ...     return {"epoch": epoch, "seconds": 9.0, "input": 1.0, "communication": 0.0,
    ...             "waiting": waiting, "tracing": 0.0}
    >>> for epoch in range(2):
    ...     _ = watch.take(0, "host a", times(epoch, waiting=5.0))
    ...     slow = watch.take(1, "host b", times(epoch, waiting=0.0))
    >>> slow.rank, slow.seconds, slow.others, slow.part
    (1, 9.0, 4.0, 'compute')
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._told: dict[int, dict[int, tuple[str, Mapping[str, Any]]]] = {}
        self._in_a_row: dict[int, tuple[int, int]] = {}
        self._named: set[tuple[int, str]] = set()

    def take(self, rank: int, host: str, times: Mapping[str, Any]) -> SlowRank | None:
        """Take the seconds of one epoch of a rank.

        Parameters
        ----------
        rank : int
            Which.
        host : str
            Where.
        times : mapping
            ``epoch``, ``seconds`` and its parts, as the training loop tells them.

        Returns
        -------
        SlowRank or None
            Once for each rank and part, when it is known.
        """
        epoch = times["epoch"]
        ranks = self._told.setdefault(epoch, {})
        ranks[rank] = host, times
        if self._size < 2 or len(ranks) < self._size:
            return None
        del self._told[epoch]
        slow = _slowest(epoch, ranks)
        if slow is None:
            return None
        before, count = self._in_a_row.get(slow.rank, (epoch - 1, 0))
        count = count + 1 if before == epoch - 1 else 1
        self._in_a_row[slow.rank] = epoch, count
        if count < _EPOCHS_IN_A_ROW or (slow.rank, slow.part) in self._named:
            return None
        self._named.add((slow.rank, slow.part))
        return slow


def _slowest(epoch: int, ranks: Mapping[int, tuple[str, Mapping[str, Any]]]) -> SlowRank | None:
    if any(times["communication"] is None for _, times in ranks.values()):
        return None  # on GPUs nobody knows how long a rank has waited
    own = {
        rank: times["seconds"] - times["communication"] - times["waiting"] - times["tracing"]
        for rank, (_, times) in ranks.items()
    }
    rank = max(own, key=lambda one: own[one])
    others = median(seconds for one, seconds in own.items() if one != rank)
    excess = own[rank] - others
    if own[rank] < _FACTOR * others or excess < _LEAST_EXCESS_S:
        return None
    host, times = ranks[rank]
    read = median(times["input"] for one, (_, times) in ranks.items() if one != rank)
    part: Literal["input", "compute"] = "input" if times["input"] - read > excess / 2 else "compute"
    return SlowRank(rank, host, epoch, own[rank], others, part)
