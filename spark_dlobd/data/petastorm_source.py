"""Row groups through petastorm: the only module that knows it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def tables(urls: list[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the row group of each file, in order. Runs on each worker."""
    with _opened(urls, columns) as reader:
        yield from reader


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


def silence_petastorm() -> None:
    """Ignore deprecations of pyarrow that petastorm's own lines provoke.

    ``warnings.catch_warnings`` is not used because readers run in threads and it
    restores the filters of the whole process when it ends.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\.")
    warnings.filterwarnings("ignore", category=ResourceWarning, module=r"petastorm\.")
