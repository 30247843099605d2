"""From a DataFrame's schema to tensors and to the Spark expressions that make them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pyspark.sql import types as T

from spark_dlobd.errors import ConfigurationError
from spark_dlobd.training.job import ColumnSpec, TensorColumn

if TYPE_CHECKING:
    from pyspark.sql import Column

Kind = Literal["scalar", "array", "vector", "binary"]

_DTYPES: dict[type[T.DataType], str] = {
    T.BooleanType: "uint8",
    T.ByteType: "int8",
    T.ShortType: "int16",
    T.IntegerType: "int32",
    T.LongType: "int64",
    T.FloatType: "float32",
    T.DoubleType: "float32",
    T.DecimalType: "float32",
}

# Spark has no unsigned byte: booleans travel as 0 and 1 of a signed one.
_SQL_TYPES = {
    "uint8": "tinyint",
    "int8": "tinyint",
    "int16": "smallint",
    "int32": "int",
    "int64": "bigint",
    "float32": "float",
}


def feature_column(schema: T.StructType, name: str, shape: tuple[int, ...]) -> TensorColumn:
    """Describe a feature column for a model with input `shape`. Runs on the driver.

    Numbers, arrays of numbers or booleans, ``pyspark.ml`` vectors and binary
    images are features. Floating point is stored as float32; integers keep their
    width, booleans and bytes are stored as uint8. A flat column of as many
    elements as `shape` has is reshaped to it.

    Parameters
    ----------
    schema : pyspark.sql.types.StructType
        Schema of the DataFrame.
    name : str
        The column.
    shape : tuple of int
        Input shape of the model without the batch axis.

    Raises
    ------
    ConfigurationError
        The column is missing, ambiguous, of an unsupported type, or of another width.

    Examples
    --------
    >>> schema = T.StructType().add("pixels", T.ArrayType(T.DoubleType()))
    >>> feature_column(schema, "pixels", (28, 28, 1))
    TensorColumn(name='pixels', dtype='float32', shape=(28, 28, 1), num_classes=None)
    """
    field = _field(schema, name, "feature")
    kind, dtype = _kind(field, "feature")
    column = TensorColumn(name, dtype, tuple(shape))
    _check_width(field, kind, column, "feature")
    return column


def label_column(
    schema: T.StructType,
    name: str,
    shape: tuple[int, ...] = (),
    num_classes: int | None = None,
) -> TensorColumn:
    """Describe a label column. Runs on the driver.

    Parameters
    ----------
    schema : pyspark.sql.types.StructType
        Schema of the DataFrame.
    name : str
        The column: a number or boolean, or, with a `shape`, an array or vector.
    shape : tuple of int, default ()
        Shape of one label; more than one element for several outputs or one-hot labels.
    num_classes : int, optional
        For class indices ``0 .. num_classes - 1``, stored as int32. Without it
        labels are stored as float32.

    Raises
    ------
    ConfigurationError
        The column is missing, ambiguous, of an unsupported type, or of another width.
    """
    field = _field(schema, name, "label")
    if isinstance(field.dataType, T.StringType):
        raise ConfigurationError(
            f"The label column '{name}' must be numeric. Got string: index it first with "
            f"pyspark.ml.feature.StringIndexer(inputCol='{name}', outputCol='label')."
        )
    kind, _ = _kind(field, "label")
    if kind == "binary" or (num_classes is not None and kind != "scalar"):
        expected = "a class index per row" if num_classes else "numbers, an array or a vector"
        raise ConfigurationError(
            f"The label column '{name}' must hold {expected}. Got {field.dataType.simpleString()}."
        )
    column = TensorColumn(name, "float32" if num_classes is None else "int32", shape, num_classes)
    _check_width(field, kind, column, "label")
    return column


def weight_column(schema: T.StructType, name: str) -> TensorColumn:
    """Describe a column of row weights, one number per row. Runs on the driver.

    Raises
    ------
    ConfigurationError
        The column is missing, ambiguous or not numeric.
    """
    field = _field(schema, name, "weight")
    if not isinstance(field.dataType, T.NumericType):
        raise ConfigurationError(
            f"The weight column '{name}' must be numeric. Got {field.dataType.simpleString()}."
        )
    return TensorColumn(name, "float32", ())


def check_indicator(schema: T.StructType, name: str) -> None:
    """Raise unless `name` is a boolean column, true for validation rows. Runs on the driver.

    Raises
    ------
    ConfigurationError
        The column is missing, ambiguous or not boolean.
    """
    field = _field(schema, name, "validation indicator")
    if not isinstance(field.dataType, T.BooleanType):
        raise ConfigurationError(
            f"The validation indicator column '{name}' must be boolean. "
            f"Got {field.dataType.simpleString()}: cast it, e.g. col('{name}') == 1."
        )


def check_roles(roles: dict[str, str | None]) -> None:
    """Raise if one column is named for two roles, e.g. as feature and label.

    Parameters
    ----------
    roles : dict of str to (str or None)
        Setting -> column, e.g. ``{"featuresCol": "x", "labelCol": "y", "weightCol": None}``.

    Raises
    ------
    ConfigurationError
        Two settings name the same column.
    """
    seen: dict[str, str] = {}
    for role, name in roles.items():
        if name is None:
            continue
        other = seen.setdefault(name.lower(), role)
        if other != role:
            raise ConfigurationError(
                f"{other} and {role} must name different columns. Both are '{name}'."
            )


def tensor_expressions(schema: T.StructType, columns: ColumnSpec) -> list[Column]:
    """Spark expressions of the columns as ``features``, ``label`` and ``weight``.

    Runs on the driver. Class labels come as double, so that a fraction is noticed
    before it is cut off.
    """
    from spark_dlobd.data.storage_schema import STORED_NAMES

    return [
        _expression(schema, column).alias(stored)
        for column, stored in zip(columns.all, STORED_NAMES, strict=False)
    ]


def quoted(name: str) -> str:
    """Name of a column that may hold dots or backticks, for ``functions.col``."""
    return "`" + name.replace("`", "``") + "`"


def _expression(schema: T.StructType, column: TensorColumn) -> Column:
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    kind, _ = _kind(_field(schema, column.name, "data"), "data")
    source = F.col(quoted(column.name))
    if kind == "vector":
        # vector_to_array throws on null, which would hide the name and the count.
        return F.when(source.isNotNull(), vector_to_array(source, "float32"))
    if kind == "binary":
        return source
    if kind == "array":
        return source.cast(f"array<{_SQL_TYPES[column.dtype]}>")
    return source.cast("double" if column.num_classes is not None else _SQL_TYPES[column.dtype])


def _field(schema: T.StructType, name: str, role: str) -> T.StructField:
    same = [field for field in schema.fields if field.name.lower() == name.lower()]
    if len(same) > 1:
        raise ConfigurationError(
            f"The {role} column '{name}' is ambiguous: the DataFrame has "
            f"{_listed(field.name for field in same)}. Rename or drop all but one."
        )
    if not same or same[0].name != name:
        raise ConfigurationError(
            f"The {role} column '{name}' is not in the DataFrame. "
            f"Available columns: {_listed(field.name for field in schema.fields)}."
        )
    return same[0]


def _kind(field: T.StructField, role: str) -> tuple[Kind, str]:
    """How a column holds its elements, and their stored dtype."""
    from pyspark.ml.linalg import VectorUDT

    found = field.dataType
    if isinstance(found, VectorUDT):
        return "vector", "float32"
    if isinstance(found, T.BinaryType):
        return "binary", "uint8"
    if isinstance(found, T.ArrayType) and type(found.elementType) in _DTYPES:
        return "array", _DTYPES[type(found.elementType)]
    if type(found) in _DTYPES:
        return "scalar", _DTYPES[type(found)]
    hint = ""
    if isinstance(found, T.ArrayType) and isinstance(found.elementType, T.ArrayType):
        hint = f" Flatten nested arrays first: functions.flatten('{field.name}')."
    elif isinstance(found, T.StringType):
        hint = " Index and encode strings first: StringIndexer, OneHotEncoder, VectorAssembler."
    raise ConfigurationError(
        f"The {role} column '{field.name}' must be a number, an array of numbers, a vector or "
        f"binary. Got {found.simpleString()}.{hint}"
    )


def _check_width(field: T.StructField, kind: Kind, column: TensorColumn, role: str) -> None:
    if any(extent < 1 for extent in column.shape):
        raise ConfigurationError(
            f"The shape for {role} column '{column.name}' must be fixed and positive. "
            f"Got {column.shape}."
        )
    width = vector_width(field) if kind == "vector" else 1 if kind == "scalar" else None
    if width is not None and width != column.size:
        what = "one number" if kind == "scalar" else f"vectors of shape ({width},)"
        raise ConfigurationError(
            f"The {role} column '{column.name}' holds {what} per row, the model expects shape "
            f"{column.shape}, which is {column.size} elements."
        )


def vector_width(field: T.StructField) -> int | None:
    """Width of a vector column from its ``ml_attr`` metadata; None where it is not known."""
    attributes = (field.metadata or {}).get("ml_attr", {})
    if "num_attrs" in attributes:
        return int(attributes["num_attrs"])
    groups = attributes.get("attrs")
    return sum(len(group) for group in groups.values()) if groups else None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
