"""Rows of several row groups in a shuffled order, without a copy of all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = tuple["NDArray[Any]", ...]


class Window:
    """Rows of neighbouring pieces in a given order. Runs on each worker.

    The pieces stay where they were read. Rows are copied when they are asked for,
    a block at a time: joining 64 MiB and permuting them would touch as much fresh
    memory twice, and the page faults cost more than the copying.

    Parameters
    ----------
    pieces : sequence of tuple of numpy.ndarray
        Columns of each piece, of equal types in all of them.
    order : numpy.ndarray
        Shape ``(n,)``: positions in the pieces, counted as if they were joined.

    Examples
    --------
    >>> pieces = [(np.array([10, 11, 12]),), (np.array([13, 14]),)]
    >>> Window(pieces, np.array([4, 0, 3, 1, 2])).rows(1, 4)
    (array([10, 13, 11]),)
    """

    def __init__(self, pieces: Sequence[Columns], order: NDArray[np.int64]) -> None:
        self._pieces = pieces
        self._order = order
        self._stops = np.cumsum([len(columns[0]) for columns in pieces])

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._order)

    def rows(self, begin: int, end: int) -> Columns:
        """Rows `begin` up to `end` (exclusive) of the order, in memory of their own."""
        wanted = self._order[begin:end]
        owner = np.searchsorted(self._stops, wanted, side="right")
        found = tuple(
            _empty((len(wanted), *column.shape[1:]), column.dtype) for column in self._pieces[0]
        )
        for index, columns in enumerate(self._pieces):
            where = np.flatnonzero(owner == index)
            inside = wanted[where] - (self._stops[index] - len(columns[0]))
            for target, column in zip(found, columns, strict=True):
                target[where] = column.take(inside, axis=0)
        return found


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Array in Arrow's memory: at 64 bytes, so that TensorFlow takes it without a copy."""
    import pyarrow as pa

    if dtype.hasobject:
        return np.empty(shape, object)
    size = math.prod(shape) * dtype.itemsize
    return np.ndarray(shape, dtype, buffer=pa.allocate_buffer(size))
