"""From a DataFrame column to the tensor the network takes, when scoring.

What is valid, and how numbers are cast, is decided where training decides it:
`spark_dlobd.data.columns` and `spark_dlobd.data.encode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_dlobd.data.cast import is_whole
from spark_dlobd.data.checks import invalid_features_error
from spark_dlobd.data.columns import find_field
from spark_dlobd.data.encode import encode_column
from spark_dlobd.data.encoded import EncodedColumn
from spark_dlobd.data.expressions import expression
from spark_dlobd.errors import DataError
from spark_dlobd.job.columns import TensorColumn

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyspark.sql import Column


def scored_expression(schema: T.StructType, column: TensorColumn) -> Column:
    """Runs on the driver. The column as a flat array or bytes.

    On its way through pandas a null makes floats of all whole numbers of a batch, which
    loses the large ones. So a number goes as an array of one, whose null is seen apart,
    and an array of whole numbers with a null in it goes as null.
    """
    value = expression(schema, column)
    if column.dtype == "string":
        return value
    if column.beside:
        whole = is_whole(column.dtype)
        return F.when(~F.exists(value, lambda element: element.isNull()), value) if whole else value
    kind = find_field(schema, column.name, "feature").dataType
    if isinstance(kind, (T.NumericType, T.BooleanType)):
        return F.when(value.isNotNull(), F.array(value))
    if isinstance(kind, T.ArrayType) and is_whole(column.dtype):
        return F.when(~F.exists(value, lambda element: element.isNull()), value)
    return value


def encode_rows(rows: pd.Series[Any], column: TensorColumn) -> EncodedColumn:
    """Runs on each worker. Rows of one column, cast and checked as training does it.

    Parameters
    ----------
    rows : Series
        Arrays of numbers or bytes, None for null.
    column : TensorColumn
        Type and shape of one row.
    """
    return encode_column(_as_arrow(rows.to_numpy(), column), column)


def invalid_error(
    columns: Sequence[TensorColumn], encoded: Sequence[EncodedColumn], alone: bool = False
) -> DataError:
    """Runs on each worker. Error that names what is wrong with these rows, or the one `alone`."""
    return invalid_features_error(list(zip(columns, encoded, strict=True)), alone)


def _as_arrow(values: np.ndarray[Any, Any], column: TensorColumn) -> pa.Array:
    import pyarrow as pa

    null = np.fromiter((value is None for value in values), bool, len(values))
    given = [value for value in values if value is not None]
    strings = column.dtype == "string"
    if isinstance(given[0], bytes) if given else strings:
        return pa.array(values, pa.binary())
    lengths = np.zeros(len(values), np.int64)
    lengths[~null] = [len(value) for value in given]
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    flat = np.concatenate(given) if given else np.zeros(0, np.float32)
    elements = pa.array(flat, pa.binary() if strings else None, from_pandas=False)
    if not null.any():
        return pa.LargeListArray.from_arrays(offsets, elements)
    # an offset of null marks a null row
    marked = pa.array(offsets, mask=np.append(null, False))
    return pa.LargeListArray.from_arrays(marked, elements)
