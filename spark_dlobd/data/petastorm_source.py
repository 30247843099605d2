"""Row groups through petastorm: the only module that knows it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from spark_dlobd.data.dataset import RowGroup
from spark_dlobd.errors import TrainingError


def read_row_groups(
    groups: Sequence[RowGroup], columns: Sequence[str]
) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Yield the columns of each row group, in the order of `groups`.

    Runs on each worker. Binary columns come as object arrays with one ``bytes``
    per row, numeric ones as arrays of their own type. Only files that
    `materialize` wrote may be given: petastorm unpickles metadata of foreign ones.

    Raises
    ------
    TrainingError
        A file holds another number of rows than `groups` says.
    """
    with _opened([group.url for group in groups], columns) as reader:
        read = 0
        for batch in reader:
            found = {name: getattr(batch, name) for name in columns}
            _check_rows(groups, read, len(found[columns[0]]))
            yield found
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
        yield reader
    finally:
        reader.stop()
        reader.join()


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
