"""How tensors are laid out in the Parquet files."""

from __future__ import annotations

from spark_dlobd.job.columns import TensorColumn

# Spark has no unsigned byte, so uint8 is widened.
_SCALAR_TYPES = {
    "uint8": "smallint",
    "int8": "tinyint",
    "int16": "smallint",
    "int32": "int",
    "int64": "bigint",
    "float32": "float",
    "float64": "double",
}


def stored_type(column: TensorColumn) -> str:
    """Spark type of a stored column.

    A single element stays a number where Spark has such a number, since a Parquet number
    costs nothing to read. Every other tensor is its raw little-endian bytes.

    Examples
    --------
    >>> stored_type(TensorColumn("x", "float32", (784,)))
    'binary'
    >>> stored_type(TensorColumn("y", "int32", (), num_classes=10))
    'int'
    """
    return _SCALAR_TYPES[column.dtype] if is_number(column) else "binary"


def is_number(column: TensorColumn) -> bool:
    """Whether a stored column holds numbers and not bytes."""
    plain = column.stored == "tensor"
    return plain and column.size == 1 and column.dtype in _SCALAR_TYPES
