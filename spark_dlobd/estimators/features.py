"""From a DataFrame column to the tensor the network takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_dlobd.errors import DataError
from spark_dlobd.estimators.outputs import Array
from spark_dlobd.training.job import TensorColumn

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import Column

_ACCEPTED = "an array of numbers, a Vector, a number, a boolean or binary (one uint8 an element)"


def quoted(name: str) -> Column:
    """Column of exactly this name, dots included."""
    return F.col("`" + name.replace("`", "``") + "`")


def column_type(schema: T.StructType, name: str) -> T.DataType:
    """Type of a column.

    Raises
    ------
    DataError
        If there is no such column.
    """
    for field in schema.fields:
        if field.name == name:
            return field.dataType
    raise DataError(
        f"featuresCol={name!r} is not a column of the DataFrame. Its columns: "
        f"{', '.join(repr(field.name) for field in schema.fields)}."
    )


def feature_expression(schema: T.StructType, name: str, tensor: TensorColumn) -> Column:
    """Runs on the driver. Expression that gives Python a flat array, a number or bytes.

    Parameters
    ----------
    schema : StructType
        Of the DataFrame to be scored.
    name : str
        The features column.
    tensor : TensorColumn
        What the network takes.

    Raises
    ------
    DataError
        If the column's type holds no numbers.
    """
    kind = column_type(schema, name)
    column = quoted(name)
    if isinstance(kind, VectorUDT):
        width = "float32" if tensor.dtype in ("float16", "float32") else "float64"
        return F.when(column.isNotNull(), vector_to_array(column, width))
    if isinstance(kind, (T.BinaryType, T.NumericType, T.BooleanType)):
        return column.cast("double") if isinstance(kind, (T.DecimalType, T.BooleanType)) else column
    element = kind
    while isinstance(element, T.ArrayType):
        element = element.elementType
        if isinstance(element, T.ArrayType):
            column = F.flatten(column)
    if element is kind or not isinstance(element, (T.NumericType, T.BooleanType)):
        raise DataError(
            f"Column {name!r} must be {_ACCEPTED}. Got {kind.simpleString()}. Cast it, or use "
            "pyspark.ml.feature.VectorAssembler."
        )
    if isinstance(element, (T.DecimalType, T.BooleanType)):
        return column.cast("array<double>")
    return column


def to_tensor(rows: pd.Series[Any], tensor: TensorColumn) -> tuple[Array, Array]:
    """Runs on each worker. Rows of one column as one array.

    Parameters
    ----------
    rows : Series
        Numbers, arrays of numbers or bytes, None for null.
    tensor : TensorColumn
        Type and shape of one row.

    Returns
    -------
    values : ndarray of shape (rows, *tensor.shape)
        Zeros where a row cannot be used.
    reasons : ndarray of str of shape (rows,)
        Why a row cannot be used; empty for a good row.
    """
    reasons = np.full(len(rows), "", dtype=object)
    flat = _numbers(rows, reasons) if rows.dtype != object else _arrays(rows, tensor, reasons)
    if flat.shape[1] != tensor.size:
        reasons[reasons == ""] = _length_reason(flat.shape[1])
        flat = np.zeros((len(rows), tensor.size), np.float64)
    if flat.dtype.kind == "f":
        _reject_nan(flat, reasons)
    return flat.astype(tensor.dtype, copy=False).reshape(len(rows), *tensor.shape), reasons


def invalid_rows_error(reasons: Array, tensor: TensorColumn, column: str) -> DataError:
    """Error that counts the rows which cannot be used, by reason."""
    names, counts = np.unique(reasons[reasons != ""].astype(str), return_counts=True)
    found = ", ".join(f"{count} with {name}" for name, count in zip(names, counts, strict=True))
    return DataError(
        f"Column {column!r} must hold {tensor.size} numbers a row (shape {tensor.shape}). Of "
        f"{len(reasons)} rows in this batch: {found}. Repair them, or set handleInvalid='skip' to "
        "leave them out."
    )


def _numbers(rows: pd.Series[Any], reasons: Array) -> Array:
    values = rows.to_numpy()
    null = rows.isna().to_numpy()
    reasons[null] = "null or NaN"
    column: Array = np.where(null, 0, values).reshape(-1, 1)
    return column


def _arrays(rows: pd.Series[Any], tensor: TensorColumn, reasons: Array) -> Array:
    values = rows.to_numpy()
    if isinstance(next((value for value in values if value is not None), None), bytes):
        values = _each(values, lambda value: None if value is None else _bytes(value))
    if set(map(_length, values)) != {tensor.size}:
        values = _usable(values, tensor.size, reasons)
    if not len(values):
        return np.zeros((0, tensor.size), np.float32)
    flat: Array = np.concatenate(values).reshape(len(values), tensor.size)
    return flat


def _length(value: Any) -> int:
    return -1 if value is None else len(value)


def _usable(values: Array, size: int, reasons: Array) -> Array:
    """Zeros in place of rows of another length."""
    good = next((v for v in values if _length(v) == size), None)
    zeros = np.zeros(size, np.float32 if good is None else good.dtype)
    for index, value in enumerate(values):
        if value is None:
            reasons[index] = "null or NaN"
        elif len(value) != size:
            reasons[index] = _length_reason(len(value))
    return _each(values, lambda value: value if _length(value) == size else zeros)


def _each(values: Array, convert: Callable[[Any], Any]) -> Array:
    result: Array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        result[index] = convert(value)
    return result


def _bytes(value: bytes) -> Array:
    return np.frombuffer(value, np.uint8)


def _length_reason(length: int) -> str:
    return f"{length} numbers (shape ({length},))"


def _reject_nan(flat: Array, reasons: Array) -> None:
    missing = np.isnan(flat)
    if missing.any():
        bad = missing.any(axis=1)
        reasons[bad & (reasons == "")] = "null or NaN"
        np.copyto(flat, 0, where=missing)
