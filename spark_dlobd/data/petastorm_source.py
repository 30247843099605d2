"""Row groups through petastorm: the only module that knows it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.data.dataset import RowGroup
from spark_dlobd.errors import TrainingError

if TYPE_CHECKING:
    import pyarrow as pa


def read_row_groups(
    groups: Sequence[RowGroup], columns: Sequence[str]
) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Yield the columns of each row group, in the order of `groups`.

    Runs on each worker. Binary columns come as uint8 of shape ``(rows, bytes)``, views
    of Arrow's memory, numeric ones as arrays of their own type. Only files that
    `materialize` wrote may be given: petastorm unpickles metadata of foreign ones.

    Raises
    ------
    TrainingError
        A file holds another number of rows than `groups` says, or tensors of unequal size.
    """
    with _opened([group.url for group in groups], columns) as reader:
        read = 0
        for table in reader:
            _check_rows(groups, read, table.num_rows)
            yield {name: _as_array(table.column(name), groups[read].url) for name in columns}
            read += 1
    if read != len(groups):
        raise TrainingError(
            f"petastorm gave {read} row groups of {len(groups)}. Missing from "
            f"{groups[read].url} on: the cache was changed while it was read."
        )


@contextmanager
def _opened(urls: list[str], columns: Sequence[str]) -> Iterator[Any]:
    silence_petastorm()
    from petastorm import make_batch_reader

    # The dummy pool reads in the calling thread: the thread pool of 0.13 loses rows.
    reader = make_batch_reader(
        urls,
        schema_fields=[f"^{name}$" for name in columns],
        reader_pool_type="dummy",
        shuffle_row_groups=False,
        num_epochs=1,
        hdfs_driver="libhdfs",
    )
    # Used as a context, a reader of 0.13 prints a line about a cache that it has not.
    try:
        # Hand over all names of files at once. With the default of 3 the dummy pool
        # sleeps 100 ms whenever small files are read faster than names arrive.
        reader.ventilator._max_ventilation_queue_size = len(urls)
        # petastorm's own makes a Python object of every row, only to have them joined again.
        reader._results_queue_reader = _ArrowResults()
        yield reader
    finally:
        reader.stop()
        reader.join()


class _ArrowResults:
    """Hands on the Arrow table of a row group as the worker read it."""

    batched_output = True

    def read_next(self, workers_pool: Any, schema: Any, ngram: Any) -> pa.Table:
        """Return the next table."""
        from petastorm.workers_pool import EmptyResultError

        try:
            return workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


def _as_array(column: pa.ChunkedArray, url: str) -> NDArray[Any]:
    """Rows of a column: a matrix of bytes where it is binary, else a vector of numbers."""
    import pyarrow as pa

    if not pa.types.is_binary(column.type):
        return np.asarray(column.to_numpy())
    matrices = [_as_bytes(chunk, url) for chunk in column.chunks]
    return matrices[0] if len(matrices) == 1 else np.concatenate(matrices)


def _as_bytes(rows: pa.BinaryArray, url: str) -> NDArray[np.uint8]:
    """View binary values of one size as ``(rows, bytes)``."""
    _, stops, values = rows.buffers()
    offsets = np.frombuffer(stops, np.int32)[rows.offset :][: len(rows) + 1]
    sizes = np.diff(offsets)
    if rows.null_count or sizes.min() != sizes.max():
        raise TrainingError(
            f"{url} holds tensors of {sizes.min()} to {sizes.max()} bytes, {rows.null_count} of "
            f"them null, expected one size and no null: the cache was changed while it was read."
        )
    return np.frombuffer(values, np.uint8)[offsets[0] : offsets[-1]].reshape(len(rows), -1)


def silence_petastorm() -> None:
    """Ignore deprecations of pyarrow that petastorm's own lines provoke.

    ``warnings.catch_warnings`` is not used because readers run in threads and it
    restores the filters of the whole process when it ends.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\.")
    warnings.filterwarnings("ignore", category=ResourceWarning, module=r"petastorm\.")


def _check_rows(groups: Sequence[RowGroup], index: int, rows: int) -> None:
    if index >= len(groups):
        raise TrainingError(f"petastorm gave more row groups than the {len(groups)} asked for.")
    if rows != groups[index].rows:
        raise TrainingError(
            f"{groups[index].url} gave {rows} rows, its footer said {groups[index].rows} when the "
            f"data was written: the cache was changed while it was read."
        )
