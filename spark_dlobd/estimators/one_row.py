"""Predictions of single rows in the driver's process."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_dlobd.data.cast import is_whole
from spark_dlobd.errors import DataError, ModelError
from spark_dlobd.estimators.outputs import OVERFLOW_ADVICE, Array, finite_rows
from spark_dlobd.job.columns import TensorColumn
from spark_dlobd.job.network import Network
from spark_dlobd.wording import useful_part

if TYPE_CHECKING:
    import pandas as pd


class DriverNetwork:
    """The network in this process: built when first asked for, shared by copies, never pickled."""

    def __init__(self) -> None:
        self._model: Any = None

    def __call__(self, value: Any, network: Network, features: TensorColumn) -> Array:
        """Output of the network for one row, of shape ``(1, ...)``.

        Raises
        ------
        DataError
            If `value` is no row of this network, or it makes of it what is not finite.
        ModelError
            If the network fails on it.
        """
        from spark_dlobd.training import keras_codec

        if self._model is None:
            self._model = keras_codec.archive_to_model(network.archive, network.custom_objects)
        tensor = TensorColumn(features.name, keras_codec.input_dtype(self._model), features.shape)
        row = _row(value, tensor)
        try:
            result = self._model(row, training=False)
        except Exception as error:
            raise ModelError(f"The network fails on this row. {_told(error)}") from error
        found = np.asarray(result[0] if isinstance(result, (list, tuple)) else result)
        if not finite_rows(found).all():
            raise DataError(
                f"The network's output for this row is NaN or infinite. {OVERFLOW_ADVICE}."
            )
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return DriverNetwork, ()


def _told(error: Exception) -> str:
    return useful_part(f"{type(error).__name__}: {error}")


def _row(value: Any, column: TensorColumn) -> Array:
    """One row as a batch, by the rules of `transform`."""
    from spark_dlobd.estimators.features import encode_rows, invalid_error

    encoded = encode_rows(_series(value, column), column)
    if encoded.reasons[0]:
        raise invalid_error(encoded, column, alone=True)
    return encoded.tensors(column)


def _series(value: Any, tensor: TensorColumn) -> pd.Series[Any]:
    import pandas as pd
    from pyspark.ml.linalg import Vector

    if isinstance(value, (bytes, bytearray)):
        return pd.Series([bytes(value)], dtype=object)
    array = np.asarray(value.toArray() if isinstance(value, Vector) else value)
    if array.dtype == object and all(isinstance(number, Decimal) for number in array.flat):
        array = array if is_whole(tensor.dtype) else array.astype(np.float64)
    elif array.dtype.kind not in "biuf":
        raise DataError(
            f"predict takes one row: a Vector, a list of numbers, an array or bytes. Got {value!r}."
        )
    if array.ndim > 1 and array.shape != tensor.shape:
        raise DataError(
            f"predict takes one row of shape {tensor.shape}, flat or nested. Got shape "
            f"{array.shape}: model.transform(df) scores many rows."
        )
    flat = array.reshape(-1)
    return pd.Series([flat.astype(np.uint8) if flat.dtype.kind == "b" else flat], dtype=object)
