"""Chunks of rows in a worker's process. Runs on each worker."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.backends.parameter_server.chunks import ChunkPlan
from spark_dlobd.data.block import Block
from spark_dlobd.data.reader import ShardReader
from spark_dlobd.data.row_groups import ReadRowGroups, row_group_reader
from spark_dlobd.data.transform import Transformer
from spark_dlobd.job.dataset import RowGroup
from spark_dlobd.job.plan import ShardPlan

if TYPE_CHECKING:
    from spark_dlobd.job.dataset import DatasetRef, Split

Arrays = tuple["NDArray[Any]", ...]

NO_CHUNK = -1


class RecentRowGroups:
    """Reads row groups, and keeps the last ones: neighbouring chunks share them.

    Parameters
    ----------
    read : callable
        Reads those that are not kept.
    count : int, default 2
        How many are kept.
    """

    def __init__(self, read: ReadRowGroups, count: int = 2) -> None:
        self._read = read
        self._count = count
        self._kept: dict[RowGroup, Mapping[str, NDArray[Any]]] = {}

    def read(
        self, groups: Sequence[RowGroup], names: Sequence[str]
    ) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Yield the columns of each row group, as `read_row_groups` does."""
        for group in groups:
            columns = self._kept.pop(group, None)
            if columns is None:
                (columns,) = self._read([group], names)
            self._kept[group] = columns
            while len(self._kept) > self._count:
                del self._kept[next(iter(self._kept))]
            yield columns


class ChunkSource:
    """Reads any chunk, and ahead of that the one that will probably be asked for next.

    Parameters
    ----------
    data : DatasetRef
        What `materialize` wrote.
    split : {"train", "validation"}
        Which of its splits.
    plan : ChunkPlan
        A plan of that split.
    worker : int
        Index of this worker; every answer holds it.
    transformer : Transformer or None
        Applied to each step, by a seed of its chunk.
    """

    def __init__(
        self,
        data: DatasetRef,
        split: Split,
        plan: ChunkPlan,
        worker: int,
        transformer: Transformer | None = None,
    ) -> None:
        self._data = data
        self._transformer = transformer
        self._split = split
        self._plan = plan
        self._worker = worker
        self._row_groups = RecentRowGroups(row_group_reader(data.reader, data.columns.ragged_names))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dlobd-chunks")
        self._ahead: tuple[tuple[int, int], Future[Arrays]] | None = None

    def take(self, order: NDArray[np.int64]) -> tuple[Any, ...]:
        """Rows of a chunk, as a ``PyFunc`` returns them.

        Parameters
        ----------
        order : numpy.ndarray
            ``(epoch, chunk, next chunk)``; the last may be ``NO_CHUNK``.

        Returns
        -------
        tuple
            Features, label and, where there is one, weight; then the worker's index
            and the seconds this call waited for the rows.
        """
        began = time.perf_counter()
        epoch, chunk, following = (int(value) for value in order)
        arrays = self._rows(epoch, chunk)
        if following != NO_CHUNK:
            wanted = (epoch, following)
            self._ahead = wanted, self._thread.submit(self._read, *wanted)
        seconds = np.float64(time.perf_counter() - began)
        return (*arrays, np.int64(self._worker), seconds)

    def _rows(self, epoch: int, chunk: int) -> Arrays:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == (epoch, chunk):
            return ahead[1].result()
        if ahead is not None:
            ahead[1].exception()  # one read at a time; what it read is not needed
        return self._read(epoch, chunk)

    def _read(self, epoch: int, chunk: int) -> Arrays:
        # a chunk plan answers all that a reader asks of a plan, with chunks for ranks
        plan = cast(ShardPlan, self._plan)
        reader = ShardReader(
            self._data,
            self._split,
            plan,
            chunk,
            read=self._row_groups.read,
            transformer=self._transformer,
        )
        reader.epoch = epoch
        return _joined([block.arrays for block in reader.blocks()])


class StreamSource(ChunkSource):
    """Chunks of the only worker: the rows in the very order of one reader, read once."""

    def __init__(
        self,
        data: DatasetRef,
        split: Split,
        plan: ChunkPlan,
        worker: int,
        transformer: Transformer | None = None,
    ) -> None:
        super().__init__(data, split, plan, worker, transformer)
        self._reader = ShardReader(data, split, plan.rows_plan, 0, transformer=transformer)
        self._position: tuple[int, int] | None = None
        self._blocks: Iterator[Block] = iter(())
        self._rest: list[Arrays] = []

    def _read(self, epoch: int, chunk: int) -> Arrays:
        if self._position is None or self._position[0] != epoch or self._position[1] > chunk:
            self._reader.epoch = epoch
            self._blocks, self._rest, self._position = self._reader.blocks(), [], (epoch, 0)
        # a worker that was started again begins in the middle of an epoch
        for skipped in range(self._position[1], chunk):
            self._next(self._plan.rows(skipped))
        self._position = (epoch, chunk + 1)
        return self._next(self._plan.rows(chunk))

    def _next(self, rows: int) -> Arrays:
        while sum(len(part[0]) for part in self._rest) < rows:
            self._rest.append(next(self._blocks).arrays)
        whole = _joined(self._rest)
        self._rest = [tuple(column[rows:] for column in whole)]
        return tuple(column[:rows] for column in whole)


def source_for(
    data: DatasetRef,
    split: Split,
    plan: ChunkPlan,
    worker: int,
    workers: int,
    transformer: Transformer | None = None,
) -> ChunkSource:
    """Source of one worker of `workers`."""
    kind = StreamSource if workers == 1 else ChunkSource
    return kind(data, split, plan, worker, transformer)


def _joined(parts: list[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))
