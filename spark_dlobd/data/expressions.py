"""Spark expressions that make the tensors of a DataFrame's columns. Runs on the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import types as T

from spark_dlobd.data.cast import is_whole
from spark_dlobd.data.columns import find_field, kind_of, nesting, reference
from spark_dlobd.data.image_columns import image_expression
from spark_dlobd.data.side_by_side import holds_whole, is_single
from spark_dlobd.job.columns import ColumnSpec, TensorColumn

if TYPE_CHECKING:
    from pyspark.sql import Column


def tensor_expressions(schema: T.StructType, columns: ColumnSpec) -> list[Column]:
    """Spark expressions of the columns under their stored names.

    Runs on the driver. Class labels come as double, so that a fraction is noticed
    before it is cut off.
    """
    return [
        expression(schema, column).alias(stored)
        for column, stored in zip(columns.all, columns.stored_names, strict=True)
    ]


def expression(schema: T.StructType, column: TensorColumn) -> Column:
    """Spark expression of one column: a number, a flat array or bytes. Runs on the driver.

    Nothing is lost in it: numbers for a network of whole numbers stay what they are, as
    Python checks them (`spark_dlobd.data.encode`).
    """
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    if column.beside:
        return _joined(schema, column)
    field = find_field(schema, column.name, "data")
    source = F.col(reference(schema, column.name))
    if column.stored == "image":
        return image_expression(schema, column.name)
    if column.padding is not None:
        source, element = _sequence(source, field.dataType, column)
    elif column.nested:
        source, element = _flat_expression(source, field.dataType, column.shape)
    elif column.dtype == "string":
        depth, element = nesting(field.dataType)
        if depth == 0:
            return source.cast(T.BinaryType())
    else:
        kind, _ = kind_of(field, "data")
        if kind == "vector":
            width = "float64" if is_whole(column.dtype) or _is_double(column) else "float32"
            if column.stored == "vector":
                return _parts_of_vector(source, width)
            # vector_to_array throws on null, which would hide the name and the count.
            return F.when(source.isNotNull(), vector_to_array(source, width))
        if kind == "binary":
            return source
        if kind == "scalar":
            return source.cast(_sent(field.dataType, column))
        element = field.dataType.elementType  # type: ignore[attr-defined]
    return source.cast(T.ArrayType(_sent(element, column)))


def _parts_of_vector(source: Column, width: str) -> Column:
    """Size, positions and values of a vector; positions are null where it holds all elements."""
    from pyspark.sql import functions as F

    parts = F.unwrap_udt(source)
    element = T.DoubleType() if width == "float64" else T.FloatType()
    struct = F.struct(
        parts["size"].alias("size"),
        parts["indices"].alias("positions"),
        parts["values"].cast(T.ArrayType(element)).alias("values"),
    )
    return F.when(source.isNotNull(), struct)


def _sent(element: T.DataType, column: TensorColumn) -> T.DataType:
    """Type in which numbers go to Python, and strings: as the bytes that they are."""
    if column.dtype == "string":
        return T.BinaryType()
    if column.num_classes is not None or _is_double(column):
        return T.DoubleType()
    if not is_whole(column.dtype):
        return T.FloatType()
    return T.ByteType() if isinstance(element, T.BooleanType) else element


def _is_double(column: TensorColumn) -> bool:
    return column.dtype == "float64"


def _joined(schema: T.StructType, column: TensorColumn) -> Column:
    """Spark expression of columns side by side: a flat array. Runs on the driver.

    A vector or array that is null counts as nulls, and one of another width as none, which
    leaves the row with another number of elements than it must have.
    """
    from pyspark.sql import functions as F

    element = _element(schema, column)
    array = T.ArrayType(element)
    parts = []
    for name, width in column.beside:
        one = TensorColumn(name, column.dtype, (width,), takes=column.takes)
        value = expression(schema, one)
        if is_single(schema, name):
            parts.append(F.array(value.cast(element)))
            continue
        empty, nulls = F.array().cast(array), F.array_repeat(F.lit(None).cast(element), width)
        fits = F.when(F.size(value) == width, value.cast(array)).otherwise(empty)
        parts.append(F.when(value.isNull(), nulls).otherwise(fits))
    return F.concat(*parts)


def _element(schema: T.StructType, column: TensorColumn) -> T.DataType:
    """Type in which all elements go to Python."""
    if column.dtype == "string":
        return T.BinaryType()
    if column.dtype == "float64":
        return T.DoubleType()
    if not is_whole(column.dtype):
        return T.FloatType()
    whole = all(holds_whole(schema, name) for name in column.sources)
    return T.LongType() if whole else T.DoubleType()


def _sequence(source: Column, kind: T.DataType, column: TensorColumn) -> tuple[Column, T.DataType]:
    """At most so many steps of each row, flat; what is longer than that is of another shape."""
    from pyspark.sql import functions as F

    depth, element = nesting(kind)
    length = column.shape[0]
    first = 1 if column.padding is None or column.padding.align == "start" else -length
    # what is short enough is not copied
    cut = F.when(F.size(source) > length, F.slice(source, first, length)).otherwise(source)
    if depth == 1:
        return cut, element
    equal = F.forall(cut, lambda step: F.size(step) == column.step_size)
    other = F.array_repeat(F.lit(0).cast(element), column.size + 1)
    return F.when(source.isNotNull(), F.when(equal, F.flatten(cut)).otherwise(other)), element


def _flat_expression(
    source: Column, kind: T.DataType, shape: tuple[int, ...]
) -> tuple[Column, T.DataType]:
    """Arrays of arrays as flat ones, empty where they are of another shape."""
    from pyspark.sql import functions as F

    depth, element = nesting(kind)
    flat = source
    for _ in range(depth - 1):
        flat = F.flatten(flat)
    other = F.array().cast(T.ArrayType(element))
    shaped = F.when(_has_shape(source, shape[:depth]), flat).otherwise(other)
    return F.when(source.isNotNull(), shaped), element


def _has_shape(source: Column, shape: tuple[int, ...]) -> Column:
    from pyspark.sql import functions as F

    here = F.size(source) == shape[0]
    if len(shape) == 1:
        return here
    return here & F.forall(source, lambda inner: _has_shape(inner, shape[1:]))
