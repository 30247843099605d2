"""Materialized rows as numpy blocks and as a ``tf.data.Dataset``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.data.block import Block
from spark_dlobd.data.decode import decoded
from spark_dlobd.data.prefetch import read_ahead
from spark_dlobd.data.row_groups import ReadRowGroups, row_group_reader
from spark_dlobd.data.transform import Transformer, step_seeds
from spark_dlobd.data.window import Columns, Window
from spark_dlobd.errors import ConfigurationError, TrainingError
from spark_dlobd.job.columns import TensorColumn
from spark_dlobd.job.dataset import DatasetRef, Split
from spark_dlobd.job.plan import RowRange, ShardPlan

if TYPE_CHECKING:
    import tensorflow as tf

SHUFFLE_WINDOW_BYTES = 64 * 2**20
BLOCK_BYTES = 8 * 2**20


class ShardReader:
    """The rows of one rank, epoch after epoch. Runs on each worker.

    Any process that reads the same data, split, plan, rank and epoch sees the
    same rows in the same order.

    Parameters
    ----------
    data : DatasetRef
        What `materialize` wrote.
    split : {"train", "validation"}
        Which of its splits.
    plan : ShardPlan
        A plan of that split's row groups.
    rank : int
        The rank to read for.
    window_bytes : int, default 64 MiB
        Rows are shuffled among at least this many bytes of neighbouring row groups.
    block_bytes : int, default 8 MiB
        Wanted size of one block.
    read : callable, optional
        Gives the columns of row groups. Default is the reader that `data` names.
    transformer : Transformer, optional
        Applied to each step, in a thread of its own; inputs then have the network's types.

    Attributes
    ----------
    epoch : int
        Set before each pass; a pass under way keeps the one it began with.
    rows_read : int
        Rows of the last complete pass.
    seconds_reading : float
        Time the thread that makes blocks was at work, or waited for a row group, in the
        last or current pass.
    error : BaseException or None
        What ended the last pass early. TensorFlow reports only its text.

    Raises
    ------
    ConfigurationError
        `plan` was made for other row groups than those of `split`.

    Examples
    --------
    >>> plan = ShardPlan.of(data.train, world_size=2, batch_size=64, seed=1)  # doctest: +SKIP
    >>> reader = ShardReader(data, "train", plan, rank=0)  # doctest: +SKIP
    >>> for epoch in range(3):  # doctest: +SKIP
    ...     reader.epoch = epoch
    ...     model.fit(reader.dataset(), epochs=1)
    """

    def __init__(
        self,
        data: DatasetRef,
        split: Split,
        plan: ShardPlan,
        rank: int,
        *,
        window_bytes: int = SHUFFLE_WINDOW_BYTES,
        block_bytes: int = BLOCK_BYTES,
        read: ReadRowGroups | None = None,
        transformer: Transformer | None = None,
    ) -> None:
        self.epoch = 0
        self.rows_read = 0
        self.seconds_reading = 0.0
        self.error: BaseException | None = None
        self._groups = data.row_groups(split)
        self._transformer = transformer
        self._given = data.columns if transformer is None else data.columns.as_taken
        self._columns = data.columns.all
        self._names = data.columns.stored_names
        self._plan = plan
        self._rank = rank
        self._read = read or row_group_reader(data.reader, data.columns.ragged_names)
        row_bytes = data.columns.row_bytes
        self._window_rows = max(1, window_bytes // row_bytes)
        self._block_rows = max(1, block_bytes // row_bytes)
        self._local_sizes = plan.local_batch_sizes(rank)
        counts = tuple(group.rows for group in self._groups)
        if counts != plan.row_counts:
            raise ConfigurationError(
                f"The plan is for {len(plan.row_counts)} row groups of {plan.total_rows} rows, the "
                f"{split} data has {len(counts)} of {sum(counts)} rows. "
                f"Make it with ShardPlan.of(data.row_groups({split!r}), ...)."
            )

    def blocks(self) -> Iterator[Block]:
        """Read one epoch, ahead of the caller in a thread.

        Yields
        ------
        Block
            Whole steps. The last step is a block of its own.

        Raises
        ------
        TrainingError
            The files hold other rows than the plan says.
        """
        return self._pass(self.epoch)

    def dataset(self, transform: Callable[..., tuple[Any, ...]] | None = None) -> tf.data.Dataset:
        """Return the same pass as a dataset with one element per step.

        Each iteration is one epoch, the one that `epoch` says when it begins.

        Parameters
        ----------
        transform : callable, optional
            Function of what a step takes that returns the like. It is traced into
            TensorFlow's graph and runs ahead of the steps.

        Returns
        -------
        tf.data.Dataset
            ``(x, y)`` or ``(x, y, sample_weight)`` with ``local_batch_sizes(rank)[step]`` rows,
            inputs in the types that the network takes.
        """
        from spark_dlobd.data.feed import step_dataset

        steps = len(self._local_sizes)
        return step_dataset(self.blocks, self._given, steps, transform)

    def _pass(self, epoch: int) -> Iterator[Block]:
        self.error = None
        self.seconds_reading = 0.0
        rows = 0
        try:
            with (
                read_ahead(self._timed(self._produce(epoch))) as read,
                self._transformed(read, epoch) as blocks,
            ):
                for block in blocks:
                    rows += block.rows
                    yield block
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise
        self.rows_read = rows

    def _transformed(
        self, blocks: Iterator[Block], epoch: int
    ) -> AbstractContextManager[Iterator[Block]]:
        if self._transformer is None:
            return nullcontext(blocks)
        seeds = step_seeds(self._plan.seed, epoch, self._rank, len(self._local_sizes))
        return read_ahead(self._transformer.blocks(blocks, seeds))

    def _timed(self, blocks: Iterator[Block]) -> Iterator[Block]:
        started = time.perf_counter()
        for block in blocks:
            self.seconds_reading += time.perf_counter() - started
            yield block
            started = time.perf_counter()
        self.seconds_reading += time.perf_counter() - started

    def _produce(self, epoch: int) -> Iterator[Block]:
        if not self._local_sizes:
            return  # an idle rank
        full = self._local_sizes[0]
        steps_left = len(self._local_sizes) - 1
        generator = self._plan.row_generator(epoch, self._rank) if self._plan.shuffle else None
        rest: Columns = ()
        # Another thread reads the next row groups while the rows of a window are copied.
        with read_ahead(self._row_groups(epoch)) as row_groups:
            for pieces in self._windows(row_groups):
                window = _ordered([rest, *pieces] if rest else pieces, generator)
                steps = min(len(window) // full, steps_left)
                yield from self._whole_steps(window, steps, full)
                steps_left -= steps
                rest = window.rows(steps * full, len(window))
                del pieces, window  # their memory serves the next ones
        self._check_tail(epoch, steps_left, len(rest[0]) if rest else 0)
        yield self._block(rest, 1)

    def _check_tail(self, epoch: int, steps_left: int, rows: int) -> None:
        if steps_left or rows != self._local_sizes[-1]:
            missing = steps_left * self._local_sizes[0] + self._local_sizes[-1] - rows
            raise TrainingError(
                f"Rank {self._rank} read {sum(self._local_sizes) - missing} rows in epoch {epoch}, "
                f"the plan says {sum(self._local_sizes)}: the cache was changed while it was read."
            )

    def _whole_steps(self, window: Window, steps: int, size: int) -> Iterator[Block]:
        stride = max(1, self._block_rows // size)
        for first in range(0, steps, stride):
            count = min(stride, steps - first)
            yield self._block(window.rows(first * size, (first + count) * size), count)

    def _windows(self, row_groups: Iterator[Columns]) -> Iterator[list[Columns]]:
        """Neighbouring row groups of at least the window's rows, undecoded."""
        pending: list[Columns] = []
        for columns in row_groups:
            pending.append(columns)
            if sum(len(piece[0]) for piece in pending) >= self._window_rows:
                yield pending
                pending = []
        if pending:
            yield pending

    def _row_groups(self, epoch: int) -> Iterator[Columns]:
        ranges: Sequence[RowRange] = self._plan.ranges(epoch, self._rank)
        groups = [self._groups[piece.group] for piece in ranges]
        for piece, columns in zip(ranges, self._read(groups, self._names), strict=True):
            for name, column in zip(self._names, self._columns, strict=True):
                _check_width(name, columns[name], column)
            yield tuple(columns[name][piece.start : piece.stop] for name in self._names)

    def _block(self, rows: Columns, steps: int) -> Block:
        arrays = (
            decoded(stored, column) for stored, column in zip(rows, self._columns, strict=True)
        )
        return Block(tuple(arrays), steps)


def _ordered(pieces: list[Columns], generator: np.random.Generator | None) -> Window:
    rows = sum(len(columns[0]) for columns in pieces)
    return Window(pieces, np.arange(rows) if generator is None else generator.permutation(rows))


def _check_width(name: str, stored: NDArray[Any], column: TensorColumn) -> None:
    wanted = column.row_bytes
    if stored.ndim == 2 and stored.shape[1] != wanted:
        raise TrainingError(
            f"The cache has {name} of {stored.shape[1]} bytes a row, expected {wanted} for "
            f"{column.dtype} of shape {column.shape}: it was changed while it was read."
        )
