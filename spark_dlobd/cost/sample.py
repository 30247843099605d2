"""Some rows of a DataFrame as arrays that a step takes. Runs on the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spark_dlobd.data.decode import decoded, ragged
from spark_dlobd.data.materialize import first_rows
from spark_dlobd.data.storage_schema import is_number
from spark_dlobd.job.columns import ColumnSpec, InvalidRows, TensorColumn, numpy_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

_MOST_BYTES = 8 << 20


def sample(
    df: DataFrame, columns: ColumnSpec, rows: int, handle_invalid: InvalidRows
) -> tuple[NDArray[Any], ...]:
    """The first rows, an array for each of `ColumnSpec.all`, in the types the network takes.

    Parameters
    ----------
    df : pyspark.sql.DataFrame
        The rows.
    columns : ColumnSpec
        Which columns.
    rows : int
        How many are wanted; there may be fewer, and large rows are fewer.
    handle_invalid : {"error", "skip"}
        What happens to rows that cannot be trained on.

    Raises
    ------
    DataError
        If these rows are not valid, or there are none.
    """
    count = max(1, min(rows, _MOST_BYTES // columns.row_bytes))
    found = first_rows(df, columns, count, handle_invalid)
    return tuple(
        _array([row[index] for row in found], column).astype(numpy_dtype(column.network_dtype))
        for index, column in enumerate(columns.all)
    )


def _array(values: list[Any], column: TensorColumn) -> NDArray[Any]:
    import numpy as np
    import pyarrow as pa

    if is_number(column):
        return decoded(np.array(values), column)
    if column.stored != "tensor":
        return decoded(ragged(pa.array([bytes(value) for value in values], pa.binary())), column)
    joined = np.frombuffer(b"".join(bytes(value) for value in values), np.uint8)
    return decoded(joined.reshape(len(values), -1), column)
