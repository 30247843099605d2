"""Rows of strings as bytes, and back, without a Python loop over strings.

A row of one string is its UTF-8. A row of several is their lengths as little-endian uint32,
and then their UTF-8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spark_dlobd.data.padding import filled_places
from spark_dlobd.job.columns import TensorColumn

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LENGTH = np.dtype("<u4")


def packed_texts(
    data: NDArray[np.uint8],
    starts: NDArray[Any],
    lengths: NDArray[Any],
    column: TensorColumn,
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Bytes of all rows, and where each begins. Runs on each worker.

    Parameters
    ----------
    data : ndarray of uint8
        UTF-8 of all strings.
    starts : ndarray of int of shape (strings + 1,)
        Where each begins in it and the last one ends.
    lengths : ndarray of int of shape (rows,)
        Strings of each row, at most `column.size`; what is missing is padding.
    column : TensorColumn
        What they are.
    """
    pad = str(column.padding.value).encode() if column.padding is not None else b""
    number = np.full((len(lengths), column.size), len(starts) - 1)
    number[filled_places(lengths, column)] = np.arange(len(starts) - 1)
    sizes = np.append(np.diff(starts), len(pad))[number].astype(_LENGTH)
    if pad:
        begins = np.append(starts[:-1], len(data))[number]
        data = np.append(data, np.frombuffer(pad, np.uint8))
        data = data[_ranges(begins.reshape(-1), sizes.reshape(-1).astype(np.int64))]
    if column.size == 1:
        return data, np.append(0, np.cumsum(sizes, dtype=np.int64))
    head = _LENGTH.itemsize * column.size
    offsets = np.append(0, np.cumsum(head + sizes.sum(axis=1, dtype=np.int64)))
    result = np.empty(offsets[-1], np.uint8)
    is_head = _heads(offsets, head)
    result[is_head] = sizes.view(np.uint8).reshape(-1)
    result[~is_head] = data
    return result, offsets


def unpacked_texts(rows: NDArray[Any], column: TensorColumn) -> NDArray[Any]:
    """Strings as bytes, of shape ``(rows, *shape)``. Runs on each worker.

    Parameters
    ----------
    rows : ndarray of object of shape (rows,)
        Bytes of each row.
    column : TensorColumn
        What they are.
    """
    import pyarrow as pa

    shape = (len(rows), *column.shape)
    if column.size == 1:
        return rows.reshape(shape)
    offsets = np.append(0, np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows))))
    joined = np.frombuffer(b"".join(rows), np.uint8)
    is_head = _heads(offsets, _LENGTH.itemsize * column.size)
    stops = np.append(0, np.cumsum(joined[is_head].view(_LENGTH), dtype=np.int64))
    buffers = [None, pa.py_buffer(stops), pa.py_buffer(joined[~is_head])]
    strings = pa.Array.from_buffers(pa.large_binary(), len(stops) - 1, buffers)
    return np.asarray(strings.to_numpy(zero_copy_only=False)).reshape(shape)


def _heads(offsets: NDArray[Any], head: int) -> NDArray[np.bool_]:
    """Which bytes of all rows are lengths."""
    found = np.zeros(int(offsets[-1]), bool)
    found[(offsets[:-1, np.newaxis] + np.arange(head)).reshape(-1)] = True
    return found


def _ranges(begins: NDArray[Any], counts: NDArray[Any]) -> NDArray[Any]:
    """Positions of so many elements from each beginning."""
    before = np.cumsum(counts) - counts
    return np.add(np.repeat(begins - before, counts), np.arange(int(counts.sum())))
