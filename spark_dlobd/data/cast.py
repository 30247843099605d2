"""Numbers of a DataFrame as the type that the network takes: one rule, for fit and transform."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_dlobd.job.columns import numpy_dtype

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    Marks = dict[str, NDArray[np.bool_]]


def stored_dtype(source: str, network: str) -> str:
    """Type in which values travel and lie so that the network gets the numbers it takes.

    Integers stay narrow where the network's type holds all of theirs in more bytes;
    everything else is stored as what the network takes.

    Parameters
    ----------
    source : str
        numpy type of the column's elements; ``"float64"`` for decimals.
    network : str
        Type of the network's input.

    Examples
    --------
    >>> stored_dtype("uint8", "float32"), stored_dtype("float64", "int64")
    ('uint8', 'int64')
    """
    wanted = numpy_dtype(network)
    given = np.dtype(source)
    if given.kind == "f" or wanted.kind == "b" or given.itemsize >= wanted.itemsize:
        return network
    least, most = np.iinfo(given).min, np.iinfo(given).max
    low, high = limits(network)
    return source if low <= least and most <= high else network


def limits(dtype: str) -> tuple[float, float]:
    """Smallest and largest finite value of a type."""
    wanted = numpy_dtype(dtype)
    if wanted.kind == "b":
        return 0, 1
    if wanted.kind in "iu":
        return int(np.iinfo(wanted).min), int(np.iinfo(wanted).max)
    import ml_dtypes

    largest = float(ml_dtypes.finfo(wanted).max)
    return -largest, largest


def is_whole(dtype: str) -> bool:
    """Whether a type holds whole numbers only."""
    return numpy_dtype(dtype).kind in "biu"


def cast(values: NDArray[Any], dtype: str) -> tuple[NDArray[Any], Marks]:
    """Values as another type, and which of them have no place in it.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Numbers or booleans.
    dtype : str
        What they are to be.

    Returns
    -------
    values : ndarray of shape (n,)
        Whole numbers exactly; 0 or not finite where a value has no place.
    marks : dict of str to ndarray of bool of shape (n,)
        ``"not_finite"``: NaN, or infinite after the cast; ``"not_integer"``: a fraction;
        ``"range"``: a whole number outside the type. Only what occurs.

    Examples
    --------
    >>> cast(np.array([2.0**24 + 1, 0.5]), "int64")
    (array([16777217,        0]), {'not_integer': array([False,  True])})
    """
    wanted = numpy_dtype(dtype)
    if wanted.kind in "biu":
        return _whole(values, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(wanted, copy=False)
    # whole numbers are finite wherever the largest of them is
    if values.dtype.kind in "biu" and limits(dtype)[1] >= 2.0**64:
        return result, {}
    return result, _only(not_finite=~np.isfinite(result))


def _whole(values: NDArray[Any], dtype: str) -> tuple[NDArray[Any], Marks]:
    wanted = numpy_dtype(dtype)
    if values.dtype == wanted or values.dtype.kind == "b":
        return values.astype(wanted, copy=False), {}
    finite = np.isfinite(values)
    whole = finite
    if values.dtype.kind == "f":
        values = np.where(finite, values, 0)
        whole = finite & (values % 1 == 0)
    inside = whole & _inside(values, dtype)
    marks = _only(not_finite=~finite, not_integer=finite & ~whole, range=whole & ~inside)
    return np.where(inside, values, 0).astype(wanted, copy=False), marks


def _inside(values: NDArray[Any], dtype: str) -> NDArray[np.bool_]:
    low, high = (int(limit) for limit in limits(dtype))
    if values.dtype.kind == "f":
        # the next number after the largest integer is a power of two, which floats hold
        return np.asarray((values >= float(low)) & (values < float(high + 1)))
    info = np.iinfo(values.dtype)
    return np.asarray((values >= max(low, info.min)) & (values <= min(high, info.max)))


def cast_decimals(values: pa.Array, dtype: str) -> tuple[NDArray[Any], Marks]:
    """Decimals of any precision as whole numbers, exactly, with the marks of `cast`; null as 0."""
    low, high = limits(dtype)
    numbers: list[Decimal] = [value or Decimal(0) for value in values.to_pylist()]
    fraction = np.array([number != number.to_integral_value() for number in numbers], bool)
    outside = np.array([not low <= number <= high for number in numbers], bool) & ~fraction
    bad = fraction | outside
    whole = [0 if skip else int(number) for number, skip in zip(numbers, bad, strict=True)]
    return np.array(whole, numpy_dtype(dtype)), _only(not_integer=fraction, range=outside)


def _only(**marks: NDArray[np.bool_]) -> Marks:
    return {problem: mark for problem, mark in marks.items() if mark.any()}
