"""Which rank reads which rows in which epoch. Pure arithmetic, no Spark, no TensorFlow.

An epoch of ``N`` rows with global batch ``B`` has ``ceil(N / B)`` steps. A tail
of fewer rows than workers joins the step before it, so every rank has rows in
every step and nothing is padded or dropped. Of a step of ``G`` rows rank ``r`` of
``W`` has rows ``G * r // W`` up to ``G * (r + 1) // W``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from spark_dlobd.errors import ConfigurationError, DataError
from spark_dlobd.job.dataset import RowGroup


class RowRange(NamedTuple):
    """Rows ``start`` up to ``stop`` (exclusive) of one row group."""

    group: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class ShardPlan:
    """Division of row groups into ranks, epochs and steps.

    Two plans with equal arguments are equal and say the same on every machine.

    Parameters
    ----------
    row_counts : tuple of int
        Rows of each row group, in the order of `DatasetRef.row_groups`.
    world_size : int
        Number of ranks.
    batch_size : int
        Rows of one step over all ranks (the global batch), at least `world_size`.
    seed : int
        Seed of every draw, not negative.
    shuffle : bool, default True
        Whether row groups and rows change their order from epoch to epoch. Off,
        rank ``r`` reads the same rows in the same order in every epoch.
    idle_ranks : bool, default False
        Whether there may be fewer rows than ranks: some ranks then have no rows and no
        steps. Not for training, where every rank takes part in every step.

    Raises
    ------
    ConfigurationError
        `batch_size` is smaller than `world_size`, or an argument is out of range.
    DataError
        There are no rows, or fewer than ranks and no rank may be idle.

    Examples
    --------
    >>> plan = ShardPlan((6, 5), world_size=2, batch_size=4, seed=0, shuffle=False)
    >>> plan.global_batch_sizes()
    (4, 4, 3)
    >>> plan.local_batch_sizes(0), plan.local_batch_sizes(1)
    ((2, 2, 1), (2, 2, 2))
    >>> plan.ranges(epoch=0, rank=1)
    (RowRange(group=0, start=5, stop=6), RowRange(group=1, start=0, stop=5))
    """

    row_counts: tuple[int, ...]
    world_size: int
    batch_size: int
    seed: int
    shuffle: bool = True
    idle_ranks: bool = False

    def __post_init__(self) -> None:
        """Check every argument."""
        if self.world_size < 1:
            raise ConfigurationError(
                f"world_size must be an int of at least 1. Got {self.world_size}."
            )
        if self.seed < 0:
            raise ConfigurationError(f"seed must be an int of at least 0. Got {self.seed}.")
        if self.batch_size < self.world_size:
            raise ConfigurationError(
                f"batch_size must be at least the number of workers, so that each has a row in "
                f"every step. Got {self.batch_size} for {self.world_size} workers: raise the "
                f"batch size or use fewer workers."
            )
        if any(count < 0 for count in self.row_counts):
            raise ConfigurationError(f"row_counts must not be negative. Got {self.row_counts}.")
        if self.total_rows < (1 if self.idle_ranks else self.world_size):
            raise DataError(
                f"Each of {self.world_size} workers needs at least one row. Got {self.total_rows} "
                f"rows: use at most {max(self.total_rows, 1)} workers or more data."
            )

    @classmethod
    def of(
        cls,
        groups: Sequence[RowGroup],
        world_size: int,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        idle_ranks: bool = False,
    ) -> ShardPlan:
        """Plan for a sequence of `RowGroup`; the other arguments as of the class."""
        counts = tuple(group.rows for group in groups)
        return cls(counts, world_size, batch_size, seed, shuffle, idle_ranks)

    @cached_property
    def total_rows(self) -> int:
        """Rows of one epoch over all ranks."""
        return sum(self.row_counts)

    @cached_property
    def _steps_and_tail(self) -> tuple[int, int]:
        steps = -(-self.total_rows // self.batch_size)
        tail = self.total_rows - (steps - 1) * self.batch_size
        if tail < self.world_size and steps > 1:
            return steps - 1, tail + self.batch_size
        return steps, tail

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps, the same for every rank that has rows and for every epoch."""
        return self._steps_and_tail[0]

    @property
    def tail_batch_size(self) -> int:
        """Rows of the last step over all ranks: at most ``batch_size + world_size - 1``."""
        return self._steps_and_tail[1]

    def global_batch_sizes(self) -> tuple[int, ...]:
        """Rows of each step over all ranks."""
        return (self.batch_size,) * (self.steps_per_epoch - 1) + (self.tail_batch_size,)

    def local_batch_sizes(self, rank: int) -> tuple[int, ...]:
        """Rows of each step of `rank`; all but the last are equal. Empty for an idle rank."""
        if self.rows(rank) == 0:
            return ()
        full = self._share(self.batch_size, rank)
        return (full,) * (self.steps_per_epoch - 1) + (self._share(self.tail_batch_size, rank),)

    def rows(self, rank: int) -> int:
        """Rows that `rank` reads in every epoch."""
        full = self._share(self.batch_size, rank)
        return full * (self.steps_per_epoch - 1) + self._share(self.tail_batch_size, rank)

    def gradient_scales(self, rank: int) -> tuple[float, float]:
        """Factors on the mean gradient of `rank`'s rows before averaging over ranks.

        With ``local_rows * world_size / global_rows`` the average over ranks is the
        mean over all rows of the step, also where ranks have unequal shares.

        Returns
        -------
        full, tail : float
            For every step but the last, and for the last. ``full`` is also given
            where the last step is the only one.
        """
        full = self._share(self.batch_size, rank) * self.world_size / self.batch_size
        tail = self._share(self.tail_batch_size, rank) * self.world_size / self.tail_batch_size
        return full, tail

    def ranges(self, epoch: int, rank: int) -> tuple[RowRange, ...]:
        """What `rank` reads in `epoch`, in reading order.

        The row groups, permuted by ``default_rng([seed, epoch])`` and rotated by a
        random number of rows, are cut into one contiguous piece per rank. A row
        group on a cut is read by both neighbours, each keeping its own rows.
        """
        start = sum(self.rows(other) for other in range(self._checked(rank)))
        stop = start + self.rows(rank)
        pieces = []
        position = 0
        for group, first, last in self._sequence(epoch):
            low = max(start - position, 0)
            high = min(stop - position, last - first)
            if low < high:
                pieces.append(RowRange(group, first + low, first + high))
            position += last - first
        return tuple(pieces)

    def row_generator(self, epoch: int, rank: int) -> np.random.Generator:
        """Generator of the order of rows within `rank`: ``default_rng([seed, epoch, rank])``."""
        return np.random.default_rng([self.seed, epoch, self._checked(rank)])

    def describe(self) -> dict[str, Any]:
        """JSON-able summary for logs, reports and the agreement check of the ranks."""
        rows = [self.rows(rank) for rank in range(self.world_size)]
        return {
            "row_groups": len(self.row_counts),
            "rows": self.total_rows,
            "world_size": self.world_size,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "steps_per_epoch": self.steps_per_epoch,
            "tail_batch_size": self.tail_batch_size,
            "rows_per_rank": {"min": min(rows), "max": max(rows)},
        }

    def _sequence(self, epoch: int) -> list[RowRange]:
        whole = [RowRange(group, 0, rows) for group, rows in enumerate(self.row_counts) if rows]
        if not self.shuffle:
            return whole
        generator = np.random.default_rng([self.seed, epoch])
        whole = [whole[index] for index in generator.permutation(len(whole))]
        if self.world_size == 1:
            # One rank reads everything: a rotation would only read one group twice.
            return whole
        return _rotated(whole, int(generator.integers(self.total_rows)))

    def _share(self, global_rows: int, rank: int) -> int:
        rank = self._checked(rank)
        return global_rows * (rank + 1) // self.world_size - global_rows * rank // self.world_size

    def _checked(self, rank: int) -> int:
        if not 0 <= rank < self.world_size:
            last = self.world_size - 1
            raise ConfigurationError(f"rank must be an int from 0 to {last}. Got {rank}.")
        return rank


def _rotated(ranges: list[RowRange], offset: int) -> list[RowRange]:
    """The same rows in the same cycle, beginning `offset` rows later."""
    position = 0
    for index, piece in enumerate(ranges):
        if offset < position + piece.rows:
            cut = piece.start + offset - position
            head = [] if cut == piece.start else [RowRange(piece.group, piece.start, cut)]
            tail = RowRange(piece.group, cut, piece.stop)
            return [tail, *ranges[index + 1 :], *ranges[:index], *head]
        position += piece.rows
    return ranges
