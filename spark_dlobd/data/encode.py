"""Arrow batches of a DataFrame to raw tensors, checked row by row without Python loops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spark_dlobd.data.checks import INDICATOR, bit
from spark_dlobd.data.storage_schema import STORED_NAMES, stored_type
from spark_dlobd.training.job import ColumnSpec, TensorColumn

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Bits = NDArray[np.int64]

VALIDATION = "validation"
REASON = "reason"
_MAX_BATCH_BYTES = 2**30


def encoded_schema(columns: ColumnSpec, with_split: bool) -> str:
    """DDL of what `encode_batches` yields: tensors, split, reason and what was seen."""
    stored = zip(STORED_NAMES, columns.all, strict=False)
    fields = [f"{name} {stored_type(column)}" for name, column in stored]
    if with_split:
        fields.append(f"{VALIDATION} boolean")
    extra = [f"{REASON} bigint", "length_features int", "length_label int", "bad_label double"]
    return ", ".join(fields + extra)


def encode_batches(
    batches: Iterator[pa.RecordBatch], columns: ColumnSpec
) -> Iterator[pa.RecordBatch]:
    """Turn batches of `tensor_expressions` into stored tensors. Runs on each worker.

    Every row comes out, a bad one with its `reason` not 0.
    """
    for batch in batches:
        for piece in _pieces(batch, columns):
            yield _encoded(piece, columns)


def _pieces(batch: pa.RecordBatch, columns: ColumnSpec) -> Iterator[pa.RecordBatch]:
    """Slices whose binary columns stay within Arrow's 32-bit offsets."""
    pieces = 1 + max(batch.nbytes, batch.num_rows * columns.features.size) // _MAX_BATCH_BYTES
    rows = -(-batch.num_rows // pieces)
    for start in range(0, batch.num_rows, max(rows, 1)):
        yield batch.slice(start, rows)


@dataclass
class _Column:
    """A stored column and what was found while making it."""

    array: pa.Array
    reasons: Bits
    seen: dict[str, pa.Array] = field(default_factory=dict)


def _encoded(batch: pa.RecordBatch, columns: ColumnSpec) -> pa.RecordBatch:
    import numpy as np
    import pyarrow as pa

    rows = batch.num_rows
    names, arrays = [], []
    reasons = np.zeros(rows, np.int64)
    seen: dict[str, pa.Array] = {}
    for index, (name, column) in enumerate(zip(STORED_NAMES, columns.all, strict=False)):
        made = _column(batch.column(index), column, index)
        names.append(name)
        arrays.append(made.array)
        reasons |= made.reasons
        seen.update({f"{key}": value for key, value in made.seen.items()})
    if VALIDATION in batch.schema.names:
        split = batch.column(batch.schema.get_field_index(VALIDATION))
        reasons |= _flag(_nulls(split), INDICATOR, "null")
        names.append(VALIDATION)
        arrays.append(split)
    none = {"length_features": pa.int32(), "length_label": pa.int32(), "bad_label": pa.float64()}
    names += [REASON, *none]
    arrays.append(pa.array(reasons))
    arrays += [seen.get(name, pa.nulls(rows, kind)) for name, kind in none.items()]
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _column(source: pa.Array, column: TensorColumn, index: int) -> _Column:
    import pyarrow as pa

    if column.num_classes is not None:
        return _class_label(source, column, index)
    if pa.types.is_list(source.type) or pa.types.is_large_list(source.type):
        return _list(source, column, index)
    if pa.types.is_binary(source.type) or pa.types.is_large_binary(source.type):
        return _binary(source, column, index)
    return _number(source, column, index)


def _number(source: pa.Array, column: TensorColumn, index: int) -> _Column:
    """A feature, a regression label or a weight of one element."""
    import numpy as np

    nulls = _nulls(source)
    values = _filled(source)
    reasons = _flag(nulls, index, "null")
    if values.dtype.kind == "f":
        reasons |= _flag(~np.isfinite(values) & ~nulls, index, "not_finite")
        if STORED_NAMES[index] == "weight":
            reasons |= _flag((values < 0) & ~nulls, index, "negative")
    return _Column(_stored_number(values, column), reasons)


def _class_label(source: pa.Array, column: TensorColumn, index: int) -> _Column:
    import numpy as np
    import pyarrow as pa

    nulls = _nulls(source)
    values = _filled(source)
    finite = np.isfinite(values)
    whole = finite & (np.where(finite, values, 0) % 1 == 0)
    outside = whole & ((values < 0) | (values >= (column.num_classes or 0)))
    reasons = (
        _flag(nulls, index, "null")
        | _flag(~finite & ~nulls, index, "not_finite")
        | _flag(finite & ~whole, index, "not_integer")
        | _flag(outside, index, "range")
    )
    classes = np.where(whole & ~outside, values, 0)
    seen = pa.array(values, pa.float64(), mask=~outside)
    return _Column(_stored_number(classes, column), reasons, {"bad_label": seen})


def _list(source: pa.Array, column: TensorColumn, index: int) -> _Column:
    """An array or vector: its Arrow values are the bytes of the tensors already."""
    import numpy as np
    import pyarrow as pa

    offset_type = np.int64 if pa.types.is_large_list(source.type) else np.int32
    offsets = np.frombuffer(source.buffers()[1], offset_type)[
        source.offset : source.offset + len(source) + 1
    ]
    first, last = int(offsets[0]), int(offsets[-1])
    child = source.values.slice(first, last - first)
    offsets = np.subtract(offsets, first)
    made = _checked_rows(source, offsets, np.diff(offsets), column, index)
    if child.null_count:
        made.reasons |= _flag(_rows_with(_nulls(child), offsets), index, "null_element")
    values = _filled(child).astype(column.dtype, copy=False)
    if values.dtype.kind == "f":
        bad = ~np.isfinite(values)
        if bad.any():
            if child.null_count:
                bad &= ~_nulls(child)
            made.reasons |= _flag(_rows_with(bad, offsets), index, "not_finite")
    if column.size == 1:
        padded = np.append(values, values.dtype.type(0))
        made.array = _stored_number(padded[offsets[:-1]], column)
    else:
        made.array = _raw(np.multiply(offsets, values.dtype.itemsize), values)
    return made


def _binary(source: pa.Array, column: TensorColumn, index: int) -> _Column:
    import numpy as np
    import pyarrow as pa

    source = source.cast(pa.binary())
    offsets = np.frombuffer(source.buffers()[1], np.int32)[
        source.offset : source.offset + len(source) + 1
    ]
    made = _checked_rows(source, offsets, np.diff(offsets), column, index)
    if column.size == 1:
        data = np.frombuffer(source.buffers()[2] or b"", np.uint8)
        made.array = _stored_number(np.append(data, np.uint8(0))[offsets[:-1]], column)
    else:
        made.array = source
    return made


def _checked_rows(
    source: pa.Array, offsets: NDArray[Any], lengths: NDArray[Any], column: TensorColumn, index: int
) -> _Column:
    import pyarrow as pa

    nulls = _nulls(source)
    wrong = (lengths != column.size) & ~nulls
    reasons = _flag(nulls, index, "null") | _flag(wrong, index, "length")
    seen = pa.array(lengths, pa.int32(), mask=~wrong)
    return _Column(source, reasons, {f"length_{STORED_NAMES[index]}": seen})


def _flag(rows: NDArray[np.bool_], index: int, problem: str) -> Bits:
    import numpy as np

    return rows.astype(np.int64) << bit(index, problem)


def _rows_with(elements: NDArray[np.bool_], offsets: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows that hold at least one of the marked elements."""
    import numpy as np

    before = np.concatenate(([0], np.cumsum(elements)))
    return np.asarray(before[offsets[1:]] > before[offsets[:-1]])


def _nulls(source: pa.Array) -> NDArray[np.bool_]:
    import numpy as np

    if source.null_count == 0:
        return np.zeros(len(source), bool)
    return np.asarray(source.is_null().to_numpy(zero_copy_only=False))


def _filled(source: pa.Array) -> NDArray[Any]:
    """Values with 0 for null, in their own width."""
    if source.null_count:
        source = source.fill_null(0)
    values: NDArray[Any] = source.to_numpy(zero_copy_only=False)
    return values


def _stored_number(values: NDArray[Any], column: TensorColumn) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    stored = np.int16 if column.dtype == "uint8" else np.dtype(column.dtype)
    return pa.array(values.astype(column.dtype, copy=False).astype(stored, copy=False))


def _raw(offsets: NDArray[Any], values: NDArray[Any]) -> pa.Array:
    """Binary array over the values' own buffer."""
    import numpy as np
    import pyarrow as pa

    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(little)]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)
