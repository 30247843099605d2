"""From a DataFrame's schema to tensors and to the Spark expressions that make them."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Literal

from pyspark.sql import types as T

from spark_dlobd.data.cast import stored_dtype
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.job.columns import ColumnSpec, TensorColumn

if TYPE_CHECKING:
    pass

Kind = Literal["scalar", "array", "vector", "binary"]

_DTYPES: dict[type[T.DataType], str] = {
    T.BooleanType: "uint8",
    T.ByteType: "int8",
    T.ShortType: "int16",
    T.IntegerType: "int32",
    T.LongType: "int64",
    T.FloatType: "float32",
    T.DoubleType: "float64",
    T.DecimalType: "float64",
}


_NETWORK_DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64"),
)


def feature_column(
    schema: T.StructType,
    name: str,
    shape: tuple[int, ...],
    takes: str = "float32",
    part: str = "",
) -> TensorColumn:
    """Describe a feature column for a model with input `shape`. Runs on the driver.

    Numbers, arrays of numbers or booleans, ``pyspark.ml`` vectors and binary
    images are features. What the network takes decides how they are stored (see
    `spark_dlobd.data.cast.stored_dtype`): whole numbers arrive exactly in a network of
    whole numbers, and rows with a value that has no place in its type are not valid. A
    flat column of as many elements as `shape` has is reshaped to it; arrays of arrays
    have to be of this shape.

    Parameters
    ----------
    schema : pyspark.sql.types.StructType
        Schema of the DataFrame.
    name : str
        The column.
    shape : tuple of int
        Input shape of the model without the batch axis.
    takes : str, default "float32"
        Type of the model's input.
    part : str, default ""
        Name of that input, where there are several.

    Raises
    ------
    ConfigurationError
        The column is missing, ambiguous, of an unsupported type, or of another width or
        nesting; or the model takes no numbers.

    Examples
    --------
    >>> schema = T.StructType().add("pixels", T.ArrayType(T.DoubleType()))
    >>> feature_column(schema, "pixels", (28, 28, 1)).dtype
    'float32'
    """
    if takes == "string":
        return _text_column(schema, name, tuple(shape), part)
    check_takes(takes)
    field = find_field(schema, name, "feature")
    flat, nested = _flattened_field(field, tuple(shape))
    kind, dtype = _kind_of(flat, "feature", takes)
    dtype = stored_dtype(dtype, takes)
    column = TensorColumn(
        name, dtype, tuple(shape), takes=None if dtype == takes else takes, nested=nested, part=part
    )
    _check_width(field, kind, column, "feature")
    return column


def _text_column(
    schema: T.StructType, name: str, shape: tuple[int, ...], part: str
) -> TensorColumn:
    """A string or an array of strings a row, for an input of strings."""
    field = find_field(schema, name, "feature")
    depth, element = nesting(field.dataType)
    if not isinstance(element, T.StringType):
        kind = f"{'array<' * depth}string{'>' * depth}"
        raise ConfigurationError(
            f"The feature column '{name}' must hold strings, which the model takes. Got "
            f"{field.dataType.simpleString()}: withColumn('{name}', col('{name}').cast('{kind}')) "
            "writes numbers as text."
        )
    _, nested = _flattened_field(field, shape)
    column = TensorColumn(name, "string", shape, nested=nested, part=part, stored="text")
    if depth == 0 and column.size != 1:
        raise ConfigurationError(
            f"The feature column '{name}' holds one string per row, the model expects shape "
            f"{shape}. Start the network with keras.Input((1,), dtype='string'), or give it a list "
            f"of {column.size} columns."
        )
    return column


def check_takes(takes: str) -> None:
    """Raise unless a column of numbers can be what the model takes."""
    if takes not in _NETWORK_DTYPES:
        raise ConfigurationError(
            f"The model takes {takes}, which no column of numbers can be. Expected an input of "
            f"{', '.join(_NETWORK_DTYPES)}: give keras.Input(..., dtype='float32')."
        )


def label_column(
    schema: T.StructType,
    name: str,
    shape: tuple[int, ...] = (),
    num_classes: int | None = None,
    part: str = "",
) -> TensorColumn:
    """Describe a label column. Runs on the driver.

    Parameters
    ----------
    schema : pyspark.sql.types.StructType
        Schema of the DataFrame.
    name : str
        The column: a number or boolean, or, with a `shape`, an array, flat or nested, a
        vector or bytes.
    shape : tuple of int, default ()
        Shape of one label; more than one element for several units, one-hot labels, and
        where each position of a row has a class.
    num_classes : int, optional
        For class indices ``0 .. num_classes - 1``, stored as int32. Without it
        labels are stored as float32.
    part : str, default ""
        Name of the output it is for, where there are several.

    Raises
    ------
    ConfigurationError
        The column is missing, ambiguous, of an unsupported type, or of another width.
    """
    field = find_field(schema, name, "label")
    if isinstance(field.dataType, T.StringType):
        raise ConfigurationError(
            f"The label column '{name}' must be numeric. Got string: index it first with "
            f"pyspark.ml.feature.StringIndexer(inputCol='{name}', outputCol='label')."
        )
    field, nested = _flattened_field(field, shape, "label") if shape else (field, False)
    kind, _ = kind_of(field, "label")
    if (kind == "scalar") == bool(shape) if num_classes else kind == "binary" and not shape:
        expected = "numbers, an array or a vector"
        if num_classes:
            expected = "a class index per row"
            expected = f"an array of class indices of shape {shape}" if shape else expected
        raise ConfigurationError(
            f"The label column '{name}' must hold {expected}. Got {field.dataType.simpleString()}."
        )
    dtype = "float32" if num_classes is None else "int32"
    column = TensorColumn(name, dtype, shape, num_classes, nested=nested, part=part)
    _check_width(field, kind, column, "label")
    return column


def flags_column(
    schema: T.StructType, name: str, shape: tuple[int, ...], part: str = ""
) -> TensorColumn:
    """Describe a label column of flags, 0 or 1 for each label of a row. Runs on the driver.

    Parameters
    ----------
    schema : pyspark.sql.types.StructType
        Schema of the DataFrame.
    name : str
        The column: an array or vector.
    shape : tuple of int
        One flag for each label.
    part : str, default ""
        Name of the output it is for, where there are several.

    Raises
    ------
    ConfigurationError
        The column is missing, ambiguous, of an unsupported type, or of another width.
    """
    field = find_field(schema, name, "label")
    found = field.dataType
    if isinstance(found, (T.StringType, T.NumericType, T.BooleanType)):
        raise ConfigurationError(
            f"The label column '{name}' must hold an array or vector of {shape[0]} flags, 0 or 1 "
            f"for each label. Got {found.simpleString()}: for one class per row use "
            "loss='sparse_categorical_crossentropy' with a softmax."
        )
    kind, _ = kind_of(field, "label")
    column = TensorColumn(name, "int32", shape, 2, part=part, flags=True)
    _check_width(field, kind, column, "label")
    return column


def weight_column(schema: T.StructType, name: str, part: str = "", axes: int = 0) -> TensorColumn:
    """Describe a column of row weights, one number per row. Runs on the driver.

    Parameters
    ----------
    schema : pyspark.sql.types.StructType
        Schema of the DataFrame.
    name : str
        The column.
    part : str, default ""
        Name of the output it is for; empty where it is for all.
    axes : int, default 0
        Axes that the loss of a row has: Keras multiplies the two.

    Raises
    ------
    ConfigurationError
        The column is missing, ambiguous or not numeric.
    """
    field = find_field(schema, name, "weight")
    if not isinstance(field.dataType, T.NumericType):
        raise ConfigurationError(
            f"The weight column '{name}' must be numeric. Got {field.dataType.simpleString()}."
        )
    return TensorColumn(name, "float32", (1,) * axes, part=part)


def check_indicator(schema: T.StructType, name: str) -> None:
    """Raise unless `name` can say which rows are for validation. Runs on the driver.

    A boolean, or a number that is 1 for validation rows and 0 for the others.

    Raises
    ------
    ConfigurationError
        The column is missing, ambiguous or of another type.
    """
    field = find_field(schema, name, "validation indicator")
    if not isinstance(field.dataType, (T.BooleanType, T.NumericType)):
        raise ConfigurationError(
            f"The validation indicator column '{name}' must be boolean, or a number that is 0 or "
            f"1. Got {field.dataType.simpleString()}: compare it, e.g. col('{name}') == 'test'."
        )


def check_roles(
    columns: ColumnSpec, indicator: str | None, classifying: Container[str] = ()
) -> None:
    """Raise if one column is named for two roles, e.g. as feature and label.

    One column may serve several inputs, several labels or several weights, and an
    autoencoder learns the column of an input of as many numbers.

    Parameters
    ----------
    columns : ColumnSpec
        Of a network.
    indicator : str or None
        Column that marks validation rows.
    classifying : container of str, default ()
        Parts of labels that are classes, also as one-hot rows, which are no autoencoder's.

    Raises
    ------
    ConfigurationError
        Two settings name the same column.
    """
    seen: dict[str, str] = {}
    whole = {(c.name.lower(), c.size) for c in columns.inputs if not c.beside}
    for role, column in zip(columns.roles, columns.all, strict=True):
        learns_numbers = column.num_classes is None and column.part not in classifying
        # a single number that is its own label is a mistake, unless both are named
        learns_numbers &= column.size > 1 or bool(column.part)
        if role == "label" and learns_numbers and (column.name.lower(), column.size) in whole:
            continue
        for name in column.sources:
            _check_role(seen, name, _setting(role, column))
    if indicator is not None:
        _check_role(seen, indicator, "validationIndicatorCol")


def _check_role(seen: dict[str, str], name: str, setting: str) -> None:
    other = seen.setdefault(name.lower(), setting)
    if other != setting:
        both, hint = f"{other} and {setting}", ""
        if setting.startswith("label"):
            both = f"{setting} and {other}" if other == "featuresCol" else both
            hint = (
                " Only an autoencoder learns its input, of as many numbers as the output has, with "
                "a regression loss such as 'mse' or problemType='regression'."
            )
        raise ConfigurationError(f"{both} must name different columns. Both are '{name}'.{hint}")


def _setting(role: str, column: TensorColumn) -> str:
    if role == "features":
        return "inputs" if column.part else "inputCols" if column.beside else "featuresCol"
    if role == "label":
        return "labels" if column.part else "labelCol"
    return "weightCol"


def quoted(name: str) -> str:
    """Name of a column that may hold dots or backticks, for ``functions.col``."""
    return "`" + name.replace("`", "``") + "`"


def reference(schema: T.StructType, name: str) -> str:
    """What ``functions.col`` takes for a column, or for a field of a struct by its path."""
    if any(field.name == name for field in schema.fields):
        return quoted(name)
    return ".".join(quoted(part) for part in name.split("."))


def _flattened_field(
    field: T.StructField, shape: tuple[int, ...], role: str = "feature"
) -> tuple[T.StructField, bool]:
    """The field as if its arrays of arrays were flat, and whether they are not."""
    depth, element = nesting(field.dataType)
    if depth < 2:
        return field, False
    if depth != len(shape) and (depth > len(shape) or any(e != 1 for e in shape[depth:])):
        raise ConfigurationError(
            f"The {role} column '{field.name}' holds arrays nested {depth} deep, the model "
            f"expects shape {shape}. Arrays have to be nested as the shape is, or flat: "
            f"functions.flatten('{field.name}') takes one level away."
        )
    return T.StructField(field.name, T.ArrayType(element), metadata=field.metadata), True


def nesting(kind: T.DataType) -> tuple[int, T.DataType]:
    """How deep arrays are nested, and what the innermost hold."""
    depth = 0
    while isinstance(kind, T.ArrayType):
        depth, kind = depth + 1, kind.elementType
    return depth, kind


def find_field(schema: T.StructType, name: str, role: str) -> T.StructField:
    """The column of this name, or the field of a struct that lies on this path.

    Raises
    ------
    ConfigurationError
        There is none, or several that differ in upper and lower case alone.
    """
    found = _own_field(schema, name, role)
    if found is None and "." in name:
        found = _field_on_path(schema, name.split("."), role)
    if found is None:
        raise ConfigurationError(
            f"The {role} column '{name}' is not in the DataFrame. "
            f"Available columns: {_listed(field.name for field in schema.fields)}."
        )
    return T.StructField(name, found.dataType, found.nullable, found.metadata)


def _own_field(schema: T.StructType, name: str, role: str) -> T.StructField | None:
    same = [field for field in schema.fields if field.name.lower() == name.lower()]
    if len(same) > 1:
        raise ConfigurationError(
            f"The {role} column '{name}' is ambiguous: the DataFrame has "
            f"{_listed(field.name for field in same)}. Rename or drop all but one."
        )
    return same[0] if same and same[0].name == name else None


def _field_on_path(schema: T.StructType, path: list[str], role: str) -> T.StructField | None:
    field = _own_field(schema, path[0], role)
    if field is None or len(path) == 1:
        return field
    inner = field.dataType
    return _field_on_path(inner, path[1:], role) if isinstance(inner, T.StructType) else None


def kind_of(field: T.StructField, role: str) -> tuple[Kind, str]:
    """How a column holds its elements, and their stored dtype."""
    return _kind_of(field, role, None)


def _kind_of(field: T.StructField, role: str, takes: str | None) -> tuple[Kind, str]:
    from pyspark.ml.linalg import VectorUDT

    found = field.dataType
    if isinstance(found, VectorUDT):
        return "vector", "float64"
    if isinstance(found, T.BinaryType):
        return "binary", "uint8"
    if isinstance(found, T.ArrayType) and type(found.elementType) in _DTYPES:
        return "array", _DTYPES[type(found.elementType)]
    if type(found) in _DTYPES:
        return "scalar", _DTYPES[type(found)]
    hint = ""
    if nesting(found)[0] > 1:
        hint = f" Flatten nested arrays first: functions.flatten('{field.name}')."
    elif isinstance(nesting(found)[1], T.StringType):
        hint = " Index and encode strings first: StringIndexer, OneHotEncoder, VectorAssembler."
        if takes is not None:
            hint += (
                f" Or let the network do it: keras.Input(..., dtype='string') instead of {takes}, "
                "and keras.layers.StringLookup or TextVectorization."
            )
    raise ConfigurationError(
        f"The {role} column '{field.name}' must be a number, an array of numbers, a vector or "
        f"binary. Got {found.simpleString()}.{hint}"
    )


def element_dtype(element: T.DataType) -> str | None:
    """Type of the elements of an array; None where they are no numbers."""
    return _DTYPES.get(type(element))


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
            f"{column.shape}, which is {column.size} elements. {other_width(width, column, role)}"
        )


def other_width(width: int, column: TensorColumn, role: str) -> str:
    """Say what to write where every row has `width` elements and the network takes others."""
    change = f"End the network with keras.layers.Dense({width})"
    if role.startswith("feature"):
        change = f"Start the network with keras.Input(({width},))"
    elements = "element" if column.size == 1 else "elements"
    return f"{change}, or give '{column.name}' {column.size} {elements} a row."


def vector_width(field: T.StructField) -> int | None:
    """Width of a vector column from its ``ml_attr`` metadata; None where it is not known."""
    attributes = (field.metadata or {}).get("ml_attr", {})
    if "num_attrs" in attributes:
        return int(attributes["num_attrs"])
    groups = attributes.get("attrs")
    return sum(len(group) for group in groups.values()) if groups else None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
