"""Which rows are in which chunk of an epoch. Pure arithmetic.

An epoch of ``N`` rows has ``ceil(N / B)`` steps of ``B`` rows, the last one shorter.
A chunk is so many consecutive steps: the rows that one scheduled call trains on,
whichever worker takes it. Every row is in exactly one chunk.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spark_dlobd.errors import ConfigurationError
from spark_dlobd.job.plan import RowRange, ShardPlan

if TYPE_CHECKING:
    from spark_dlobd.job.dataset import DatasetRef, Split
    from spark_dlobd.job.train_job import TrainJob

# Calls per worker and epoch: a slow worker then delays the epoch's end by a few percent.
_CALLS_PER_WORKER = 16
_MOST_STEPS_PER_CALL = 32
_MOST_CHUNK_BYTES = 32 << 20


@dataclass(frozen=True)
class ChunkPlan:
    """Division of row groups into epochs and chunks.

    To `ShardReader` it is a plan whose ranks are the chunks.

    Parameters
    ----------
    row_counts : tuple of int
        Rows of each row group.
    batch_size : int
        Rows of one step.
    steps_per_chunk : int
        Steps of one chunk; the last chunk may have fewer.
    seed : int
        Seed of every draw.
    shuffle : bool, default True
        Whether row groups change their order from epoch to epoch, and rows theirs
        within a chunk.

    Examples
    --------
    >>> plan = ChunkPlan((6, 5), batch_size=2, steps_per_chunk=2, seed=0, shuffle=False)
    >>> plan.steps_per_epoch, plan.chunks_per_epoch
    (6, 3)
    >>> plan.ranges(epoch=0, rank=1)
    (RowRange(group=0, start=4, stop=6), RowRange(group=1, start=0, stop=2))
    >>> plan.local_batch_sizes(2)
    (2, 1)
    """

    row_counts: tuple[int, ...]
    batch_size: int
    steps_per_chunk: int
    seed: int
    shuffle: bool = True

    def __post_init__(self) -> None:
        """Check what the plan of rows does not."""
        if self.steps_per_chunk < 1:
            raise ConfigurationError(
                f"steps_per_chunk must be an int of at least 1. Got {self.steps_per_chunk}."
            )

    @classmethod
    def of_job(
        cls, job: TrainJob, data: DatasetRef, split: Split, steps_per_call: int | None
    ) -> ChunkPlan:
        """Plan of one split; `steps_per_call` None chooses from rows and workers."""
        config = job.config
        rows = tuple(group.rows for group in data.row_groups(split))
        steps = -(-sum(rows) // config.batch_size)
        chosen = steps_per_call or _steps_per_call(job, steps)
        shuffle = config.shuffle and split == "train"
        return cls(rows, config.batch_size, min(chosen, steps), config.seed, shuffle)

    @functools.cached_property
    def rows_plan(self) -> ShardPlan:
        """The same rows and steps read by one worker alone."""
        return ShardPlan(self.row_counts, 1, self.batch_size, self.seed, self.shuffle)

    @property
    def total_rows(self) -> int:
        """Rows of one epoch."""
        return self.rows_plan.total_rows

    @property
    def steps_per_epoch(self) -> int:
        """Updates of one epoch over all workers."""
        return self.rows_plan.steps_per_epoch

    @property
    def chunks_per_epoch(self) -> int:
        """Scheduled calls of one epoch."""
        return -(-self.steps_per_epoch // self.steps_per_chunk)

    def first_step(self, chunk: int) -> int:
        """Position of the chunk's first step within the epoch."""
        return chunk * self.steps_per_chunk

    def local_batch_sizes(self, rank: int) -> tuple[int, ...]:
        """Rows of each step of chunk `rank`."""
        rows = self.rows(rank)
        full, tail = divmod(rows, self.batch_size)
        return (self.batch_size,) * full + ((tail,) if tail else ())

    def rows(self, rank: int) -> int:
        """Rows of chunk `rank`."""
        start, stop = self._bounds(rank)
        return stop - start

    def ranges(self, epoch: int, rank: int) -> tuple[RowRange, ...]:
        """Rows of chunk `rank` in `epoch`, in reading order."""
        start, stop = self._bounds(rank)
        pieces = []
        position = 0
        for group, first, last in _sequence(self.rows_plan, epoch):
            low, high = max(start - position, 0), min(stop - position, last - first)
            if low < high:
                pieces.append(RowRange(group, first + low, first + high))
            position += last - first
            if position >= stop:
                break
        return tuple(pieces)

    def row_generator(self, epoch: int, rank: int) -> np.random.Generator:
        """Generator of the order of rows within a chunk."""
        return np.random.default_rng([self.seed, epoch, rank])

    def order(self, workers: int) -> list[int]:
        """Order in which chunks are scheduled.

        Workers of equal speed then take chunks from regions of their own, so that a
        row group is rarely read by two of them.

        Examples
        --------
        >>> ChunkPlan((10,), 1, 2, seed=0).order(workers=2)
        [0, 3, 1, 4, 2]
        """
        count = self.chunks_per_epoch
        length = -(-count // workers)
        dealt = [worker * length + i for i in range(length) for worker in range(workers)]
        return [chunk for chunk in dealt if chunk < count]

    def _bounds(self, chunk: int) -> tuple[int, int]:
        if not 0 <= chunk < self.chunks_per_epoch:
            raise ConfigurationError(
                f"chunk must be an int from 0 to {self.chunks_per_epoch - 1}. Got {chunk}."
            )
        rows = self.steps_per_chunk * self.batch_size
        return chunk * rows, min((chunk + 1) * rows, self.total_rows)


@functools.lru_cache(maxsize=4)
def _sequence(plan: ShardPlan, epoch: int) -> tuple[RowRange, ...]:
    return plan.ranges(epoch, 0)


def _steps_per_call(job: TrainJob, steps: int) -> int:
    row_bytes = job.columns.row_bytes
    return steps_per_call(row_bytes, job.config.batch_size, steps, job.config.world_size)


def steps_per_call(row_bytes: int, batch_size: int, steps: int, workers: int) -> int:
    """Steps of one call where nobody chose them.

    Parameters
    ----------
    row_bytes : int
        Of one row as it is stored.
    batch_size : int
        Rows of one step.
    steps : int
        Of one epoch.
    workers : int
        How many take calls.

    Examples
    --------
    >>> steps_per_call(row_bytes=3_140, batch_size=128, steps=100, workers=2)
    3
    """
    most = min(
        _MOST_STEPS_PER_CALL,
        _MOST_CHUNK_BYTES // (row_bytes * batch_size),
        steps // (_CALLS_PER_WORKER * workers),
    )
    return max(1, most)
