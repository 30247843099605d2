"""Row groups through pyarrow alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from spark_dlobd.data.storage import arrow_file_system

if TYPE_CHECKING:
    import pyarrow as pa


def tables(urls: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the row group of each file, in order. Runs on each worker.

    Bytes are read as they lie in the file, in the calling thread: a reader's own thread
    calls this, and another one copies.
    """
    import pyarrow.parquet as pq

    for url in urls:
        system, path = arrow_file_system(url)
        with system.open_input_file(path) as file, pq.ParquetFile(file) as parquet:
            for index in range(parquet.num_row_groups):
                yield parquet.read_row_group(index, columns=list(columns), use_threads=False)
