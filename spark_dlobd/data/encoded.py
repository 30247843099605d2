"""One column of a batch, cast and checked. Runs on each worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.data.decode import decoded, rows_of
from spark_dlobd.data.storage_schema import is_number
from spark_dlobd.job.columns import TensorColumn

if TYPE_CHECKING:
    import pyarrow as pa

Bits = NDArray[np.int64]


@dataclass
class EncodedColumn:
    """Elements of a column as the type they are stored in, and what was found meanwhile.

    Attributes
    ----------
    values : ndarray of shape (elements,)
        Of all rows, one after the other: numbers, or the bytes of rows that are stored in
        another form than as the tensors themselves.
    offsets : ndarray of int of shape (rows + 1,)
        Where each row begins and the last one ends in `values`.
    reasons : ndarray of int64 of shape (rows,)
        Bits of what is wrong with each row, in the order of `spark_dlobd.data.checks.PROBLEMS`.
    lengths : pyarrow.Array or None
        Of each row where it is wrong, else null.
    classes : pyarrow.Array or None
        Labels outside the classes, else null.
    places : pyarrow.Array or None
        Position of the first bad element of each row, else null; of columns side by side.
    words : pyarrow.Array or None
        What is wrong with each image that cannot be read, else null.
    """

    values: NDArray[Any]
    offsets: NDArray[Any]
    reasons: Bits
    lengths: pa.Array | None = None
    classes: pa.Array | None = None
    places: pa.Array | None = None
    words: pa.Array | None = None

    def stored(self, column: TensorColumn) -> pa.Array:
        """Array as it is written."""
        if not is_number(column):
            return _raw(np.multiply(self.offsets, self.values.dtype.itemsize), self.values)
        padded = np.append(self.values, self.values.dtype.type(0))
        return _stored_number(padded[self.offsets[:-1]], column)

    def tensors(self, column: TensorColumn) -> NDArray[Any]:
        """Rows as an array of shape ``(rows, *shape)``, zeros where one is not valid."""
        if column.stored != "tensor":
            return self._decoded(column)
        rows, good = len(self.reasons), self.reasons == 0
        if good.all():
            return self.values.reshape(rows, *column.shape)
        result = np.zeros((rows, column.size), self.values.dtype)
        lengths = np.diff(self.offsets)
        result[good] = self.values[np.repeat(good, lengths)].reshape(-1, column.size)
        return result.reshape(rows, *column.shape)

    def _decoded(self, column: TensorColumn) -> NDArray[Any]:
        """Rows that are stored in another form."""
        rows = rows_of(self.stored(column), column)
        good = self.reasons == 0
        if good.all():
            return decoded(rows, column)
        made = decoded(rows[good], column)
        result = np.zeros((len(rows), *column.shape), made.dtype)
        if made.dtype == object:
            result.fill(b"")
        result[good] = made
        return result


def _stored_number(values: NDArray[Any], column: TensorColumn) -> pa.Array:
    import pyarrow as pa

    return pa.array(values.astype(np.int16) if column.dtype == "uint8" else values)


def _raw(offsets: NDArray[Any], values: NDArray[Any]) -> pa.Array:
    """Binary array over the values' own buffer."""
    import pyarrow as pa

    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(little.view(np.uint8))]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)
