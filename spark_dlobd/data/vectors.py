"""Wide vectors, each row of them stored as whichever is smaller: its non-zeros or all elements.

A row of non-zeros is pairs of a little-endian uint32 position and the element. Its length tells
it from a row of all elements, as it is always shorter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import types as T

from spark_dlobd.data.columns import find_field
from spark_dlobd.job.columns import ColumnSpec, TensorColumn, numpy_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

# below it a row of all elements is read faster than it could be put together
WIDE = 1024


def with_wide_vectors(schema: T.StructType, columns: ColumnSpec) -> ColumnSpec:
    """The columns with wide vectors marked, as training stores them. Runs on the driver."""
    return replace(columns, inputs=tuple(_marked(schema, column) for column in columns.inputs))


def _marked(schema: T.StructType, column: TensorColumn) -> TensorColumn:
    from pyspark.ml.linalg import VectorUDT

    plain = column.stored == "tensor" and not column.beside and not column.padding
    if not plain or column.size < WIDE:
        return column
    if not isinstance(find_field(schema, column.name, "feature").dataType, VectorUDT):
        return column
    return replace(column, stored="vector")


def packed_vectors(
    rows: NDArray[Any],
    positions: NDArray[Any],
    values: NDArray[Any],
    count: int,
    column: TensorColumn,
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Bytes of all rows, and where each begins. Runs on each worker.

    Parameters
    ----------
    rows, positions, values : ndarray of shape (elements,)
        Row, position in it and value of each element that may differ from zero, by row.
    count : int
        Number of rows.
    column : TensorColumn
        What they are.
    """
    pair = _pair(values.dtype)
    counts = np.bincount(rows, minlength=count)
    dense = counts * pair.itemsize >= column.size * values.dtype.itemsize
    sizes = np.where(dense, column.size * values.dtype.itemsize, counts * pair.itemsize)
    offsets = np.append(0, np.cumsum(sizes))
    of_dense = dense[rows]
    pairs = np.empty(np.count_nonzero(~of_dense), pair)
    pairs["position"], pairs["value"] = positions[~of_dense], values[~of_dense]
    if not dense.any():
        return pairs.view(np.uint8), offsets
    whole = np.zeros((np.count_nonzero(dense), column.size), values.dtype)
    place = np.cumsum(dense) - 1
    whole[place[rows[of_dense]], positions[of_dense]] = values[of_dense]
    is_whole = np.repeat(dense, sizes)
    result = np.empty(int(offsets[-1]), np.uint8)
    result[is_whole] = whole.view(np.uint8).reshape(-1)
    result[~is_whole] = pairs.view(np.uint8)
    return result, offsets


def unpacked_vectors(rows: NDArray[Any], column: TensorColumn) -> NDArray[Any]:
    """Vectors with all their elements, of shape ``(rows, *shape)``. Runs on each worker.

    Parameters
    ----------
    rows : ndarray of object of shape (rows,)
        Bytes of each row.
    column : TensorColumn
        What they are.
    """
    dtype = numpy_dtype(column.dtype)
    pair = _pair(dtype)
    sizes = np.fromiter(map(len, rows), np.int64, len(rows))
    dense = sizes == column.size * dtype.itemsize
    joined = np.frombuffer(b"".join(rows), np.uint8)
    result = np.zeros((len(rows), column.size), dtype)
    of_dense = np.repeat(dense, sizes)
    if dense.any():
        result[dense] = joined[of_dense].view(dtype).reshape(-1, column.size)
        joined = joined[~of_dense]
    pairs = joined.view(pair)
    sparse = np.flatnonzero(~dense)
    result[np.repeat(sparse, sizes[~dense] // pair.itemsize), pairs["position"]] = pairs["value"]
    return result.reshape(len(rows), *column.shape)


def _pair(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype([("position", "<u4"), ("value", dtype)])
