"""From stored rows to the tensors that the network takes: one rule, for fit and transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_dlobd.data.images import decode_images
from spark_dlobd.data.texts import unpacked_texts
from spark_dlobd.data.vectors import unpacked_vectors
from spark_dlobd.job.columns import TensorColumn, numpy_dtype

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

Decode = Callable[["NDArray[Any]", TensorColumn], "NDArray[Any]"]


def decoded(stored: NDArray[Any], column: TensorColumn) -> NDArray[Any]:
    """Tensors ``(rows, *shape)`` of a stored column. Runs on each worker.

    Parameters
    ----------
    stored : ndarray
        Numbers of shape ``(rows,)``, the bytes of tensors as uint8 of shape ``(rows, bytes)``,
        or rows of bytes of any length as objects of shape ``(rows,)``.
    column : TensorColumn
        What they are.
    """
    if column.stored != "tensor":
        return _DECODERS[column.stored](stored, column)
    shape = (len(stored), *column.shape)
    dtype = numpy_dtype(column.dtype)
    if stored.ndim == 2:
        # bytes are seen as numbers where they are
        stored = stored.view(dtype.newbyteorder("<"))
    return stored.astype(dtype, copy=False).reshape(shape)


def rows_of(stored: pa.Array, column: TensorColumn) -> NDArray[Any]:
    """Rows of a stored column as `decoded` takes them. Runs on each worker."""
    import pyarrow as pa

    if not (pa.types.is_binary(stored.type) or pa.types.is_large_binary(stored.type)):
        return np.asarray(stored.to_numpy(zero_copy_only=False))
    if column.stored != "tensor":
        return ragged(stored)
    return np.frombuffer(b"".join(stored.to_pylist()), np.uint8).reshape(len(stored), -1)


def ragged(rows: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Rows of bytes of any length, of shape ``(rows,)``."""
    # one call makes all objects, fifteen times as fast as `to_pylist`
    arrow = rows.combine_chunks() if hasattr(rows, "chunks") else rows
    return np.asarray(arrow.to_numpy(zero_copy_only=False), object)


_DECODERS: dict[str, Decode] = {
    "text": unpacked_texts,
    "image": decode_images,
    "vector": unpacked_vectors,
}
