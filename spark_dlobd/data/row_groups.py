"""Row groups of materialized files as arrays, through petastorm or pyarrow alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.data.decode import ragged as rows_of_any_length
from spark_dlobd.errors import MissingDependencyError, TrainingError
from spark_dlobd.job.dataset import ReaderName, RowGroup
from spark_dlobd.processes.versions import petastorm_problem

if TYPE_CHECKING:
    import pyarrow as pa

ReadRowGroups = Callable[[Sequence[RowGroup], Sequence[str]], Iterator[Mapping[str, NDArray[Any]]]]


def row_group_reader(name: ReaderName, ragged: Collection[str] = ()) -> ReadRowGroups:
    """Return the function that reads row groups. Runs on each worker.

    Parameters
    ----------
    name : {"petastorm", "pyarrow"}
        Through which library; both give the same arrays.
    ragged : collection of str
        Binary columns whose rows may be of any length.
    """
    return functools.partial(read_row_groups, reader=name, ragged=frozenset(ragged))


def read_row_groups(
    groups: Sequence[RowGroup],
    columns: Sequence[str],
    *,
    reader: ReaderName,
    ragged: Collection[str] = (),
) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Yield the columns of each row group, in the order of `groups`.

    Runs on each worker. Binary columns come as uint8 of shape ``(rows, bytes)``, views
    of Arrow's memory, `ragged` ones as objects of shape ``(rows,)`` that hold bytes, numeric
    ones as arrays of their own type. Only files that
    `materialize` wrote may be given: petastorm unpickles metadata of foreign ones.

    Raises
    ------
    MissingDependencyError
        The reader cannot be used here.
    TrainingError
        A file holds another number of rows than `groups` says, or tensors of unequal size.
    """
    urls = [group.url for group in groups]
    read = 0
    for table in _tables(reader)(urls, columns):
        _check_rows(groups, read, table.num_rows, reader)
        url = groups[read].url
        yield {name: _as_array(table.column(name), url, name in ragged) for name in columns}
        read += 1
    if read != len(groups):
        raise TrainingError(
            f"{reader} gave {read} row groups of {len(groups)}. Missing from "
            f"{groups[read].url} on: the cache was changed while it was read."
        )


def usable_reader(wanted: ReaderName | None = None) -> ReaderName:
    """Return the reader of this interpreter: petastorm where it can be used, else pyarrow.

    Parameters
    ----------
    wanted : {"petastorm", "pyarrow"}, optional
        The only one that will do.

    Raises
    ------
    MissingDependencyError
        The one that is wanted cannot be used.
    """
    if wanted == "pyarrow":
        return "pyarrow"
    problem = petastorm_problem()
    if problem is None:
        return "petastorm"
    if wanted is None:
        return "pyarrow"
    raise MissingDependencyError(
        f"The reader 'petastorm' cannot be used here: {problem}. Install 'spark-dlobd[petastorm]' "
        "on the driver and all executors, or set reader='pyarrow', which reads the same rows."
    )


def _tables(reader: ReaderName) -> Callable[[list[str], Sequence[str]], Iterator[pa.Table]]:
    if usable_reader(reader) == "petastorm":
        from spark_dlobd.data.petastorm_source import tables

        return tables
    from spark_dlobd.data.arrow_source import tables

    return tables


def _check_rows(groups: Sequence[RowGroup], index: int, rows: int, reader: str) -> None:
    if index >= len(groups):
        raise TrainingError(f"{reader} gave more row groups than the {len(groups)} asked for.")
    if rows != groups[index].rows:
        raise TrainingError(
            f"{groups[index].url} gave {rows} rows, its footer said {groups[index].rows} when the "
            f"data was written: the cache was changed while it was read."
        )


def _as_array(column: pa.ChunkedArray, url: str, ragged: bool) -> NDArray[Any]:
    """Rows of a column: a matrix of bytes where it is binary, else a vector of numbers."""
    import pyarrow as pa

    if ragged:
        return rows_of_any_length(column)

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
