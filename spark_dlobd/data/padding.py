"""Rows of any number of elements in tensors of one size. Runs on each worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spark_dlobd.data.cast import cast
from spark_dlobd.job.columns import TensorColumn

if TYPE_CHECKING:
    from numpy.typing import NDArray


def padded(values: NDArray[Any], lengths: NDArray[Any], column: TensorColumn) -> NDArray[Any]:
    """Elements of rows of these `lengths`, with padding up to the size of each.

    Examples
    --------
    >>> from spark_dlobd.job.columns import Padding
    >>> column = TensorColumn("x", "int32", (3,), padding=Padding(-1, "end"))
    >>> padded(np.array([7, 8, 9], "int32"), np.array([1, 2]), column).tolist()
    [-1, -1, 7, -1, 8, 9]
    """
    assert column.padding is not None
    fill = cast(np.array([column.padding.value]), column.dtype)[0][0]
    result = np.full((len(lengths), column.size), fill, values.dtype)
    result[filled_places(lengths, column)] = values
    return result.reshape(-1)


def filled_places(lengths: NDArray[Any], column: TensorColumn) -> NDArray[np.bool_]:
    """Which elements of the tensors come from the rows, of shape ``(rows, size)``."""
    places, count = np.arange(column.size), lengths[:, np.newaxis]
    if column.padding is not None and column.padding.align == "end":
        return np.asarray(places >= column.size - count)
    return np.asarray(places < count)
