"""Predictions of single rows in the driver's process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_dlobd.data.cast import is_whole
from spark_dlobd.errors import DataError, ModelError
from spark_dlobd.estimators.outputs import OVERFLOW_ADVICE, Array, finite_rows
from spark_dlobd.job.columns import TensorColumn, numpy_dtype
from spark_dlobd.job.network import Network
from spark_dlobd.training.signature import Signature, inputs_of, outputs_of, tensors_by_part
from spark_dlobd.wording import useful_part

if TYPE_CHECKING:
    import pandas as pd


class DriverNetwork:
    """The network in this process: built when first asked for, shared by copies, never pickled."""

    def __init__(self) -> None:
        self._model: Any = None
        self._sides: tuple[Signature, Signature] | None = None

    def __call__(self, value: Any, network: Network, inputs: Sequence[TensorColumn]) -> list[Array]:
        """Outputs of the network for one row, each of shape ``(1, ...)``.

        `value` is a dict of rows by input where there are several.

        Raises
        ------
        DataError
            If `value` is no row of this network, or it makes of it what is not finite.
        ModelError
            If the network fails on it.
        """
        from spark_dlobd.training import keras_codec

        if self._model is None or self._sides is None:
            self._model = keras_codec.archive_to_model(network.archive, network.custom_objects)
            self._sides = inputs_of(self._model), outputs_of(self._model)
        takes, gives = self._sides
        rows = _rows(value, inputs)
        try:
            x = takes.structure.packed(dict(zip(takes.parts, rows, strict=True)))
            result = tensors_by_part(self._model(x, training=False), gives.structure)
        except Exception as error:
            raise ModelError(f"The network fails on this row. {_told(error)}") from error
        found = [np.asarray(result[part]) for part in gives.parts]
        if not all(finite_rows(one).all() for one in found):
            raise DataError(
                f"The network's output for this row is NaN or infinite. {OVERFLOW_ADVICE}."
            )
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return DriverNetwork, ()


def _told(error: Exception) -> str:
    return useful_part(f"{type(error).__name__}: {error}")


def _rows(value: Any, inputs: Sequence[TensorColumn]) -> list[Array]:
    """One row of each input."""
    if len(inputs) == 1:
        return [_row(value, inputs[0])]
    names = [column.part for column in inputs]
    if not isinstance(value, Mapping) or set(value) != set(names):
        raise DataError(
            f"predict takes a dict of one row for each input, {', '.join(map(repr, names))}. Got "
            f"{value!r}."
        )
    return [_row(value[column.part], column) for column in inputs]


def _row(value: Any, column: TensorColumn) -> Array:
    """One row as a batch, by the rules of `transform`."""
    from spark_dlobd.estimators.features import encode_rows, invalid_error

    encoded = encode_rows(_series(value, column), column)
    if encoded.reasons[0]:
        raise invalid_error([column], [encoded], alone=True)
    return encoded.tensors(column).astype(numpy_dtype(column.network_dtype), copy=False)


def _series(value: Any, tensor: TensorColumn) -> pd.Series[Any]:
    import pandas as pd
    from pyspark.ml.linalg import Vector

    if tensor.dtype == "string":
        return pd.Series([_texts(value, tensor)], dtype=object)
    if isinstance(value, (bytes, bytearray)):
        return pd.Series([bytes(value)], dtype=object)
    array = _array(value.toArray() if isinstance(value, Vector) else value, tensor)
    if array.dtype == object and all(isinstance(number, Decimal) for number in array.flat):
        array = array if is_whole(tensor.dtype) else array.astype(np.float64)
    elif array.dtype.kind not in "biuf":
        raise DataError(
            f"predict takes one row: a Vector, a list of numbers, an array or bytes. Got {value!r}."
        )
    flat = _flat(array, tensor)
    return pd.Series([flat.astype(np.uint8) if flat.dtype.kind == "b" else flat], dtype=object)


def _texts(value: Any, tensor: TensorColumn) -> Any:
    """The bytes of one string, or an array of those of several."""
    if isinstance(value, (str, bytes)) and tensor.size == 1 and tensor.padding is None:
        return value.encode() if isinstance(value, str) else value
    strings = _flat(_array(value, tensor, object), tensor)
    if isinstance(value, (str, bytes)) or not all(isinstance(one, (str, bytes)) for one in strings):
        raise DataError(f"predict takes one row of {tensor.size} strings. Got {value!r}.")
    encoded = np.empty(len(strings), object)
    encoded[:] = [one.encode() if isinstance(one, str) else one for one in strings]
    return encoded


def _array(value: Any, tensor: TensorColumn, dtype: Any = None) -> Array:
    try:
        return np.asarray(value, dtype)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"predict takes one row of shape {tensor.shape}, flat or nested. Got {value!r}: "
            f"{error}."
        ) from error


def _flat(array: Array, tensor: TensorColumn) -> Array:
    """Elements of one row, which may be nested as the tensor is."""
    if tensor.padding is not None:
        return _cut(array, tensor)
    if array.ndim > 1 and array.shape != tensor.shape:
        raise DataError(
            f"predict takes one row of shape {tensor.shape}, flat or nested. Got shape "
            f"{array.shape}: model.transform(df) scores many rows."
        )
    return array.reshape(-1)


def _cut(array: Array, tensor: TensorColumn) -> Array:
    """At most as many steps as the tensor has, as `transform` takes them."""
    length, step = tensor.shape[0], tensor.shape[1:]
    if array.shape[1:] != step and not (
        array.ndim == 1 and (tensor.step_size == 1 or not array.size)
    ):
        raise DataError(
            f"predict takes a sequence of any number of steps of shape {step}. Got shape "
            f"{array.shape}."
        )
    assert tensor.padding is not None
    return (array[:length] if tensor.padding.align == "start" else array[-length:]).reshape(-1)
