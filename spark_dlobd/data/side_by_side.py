"""Several columns side by side as one tensor: numbers, booleans, strings, arrays and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyspark.sql import types as T

from spark_dlobd.data.cast import is_whole
from spark_dlobd.data.columns import feature_column, find_field, vector_width
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.job.columns import Piece, Stored, TensorColumn


def side_by_side(
    schema: T.StructType,
    names: Sequence[str],
    shape: tuple[int, ...],
    takes: str = "float32",
    part: str = "",
) -> TensorColumn:
    """Describe columns that together are one input of the network. Runs on the driver.

    Parameters
    ----------
    schema : pyspark.sql.types.StructType
        Schema of the DataFrame.
    names : sequence of str
        The columns, in the order of the elements.
    shape : tuple of int
        Input shape of the model without the batch axis.
    takes : str, default "float32"
        Type of the model's input.
    part : str, default ""
        Name of that input, where there are several.

    Raises
    ------
    ConfigurationError
        As from `feature_column`, or the columns have another number of elements together.
    """
    if len(names) == 1:
        return feature_column(schema, names[0], shape, takes, part)
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ConfigurationError(
            f"Each column stands in one place. Got {', '.join(map(repr, repeated))} several times "
            f"in {list(names)}."
        )
    stored: Stored = "text" if takes == "string" else "tensor"
    together = TensorColumn(_called(names), takes, tuple(shape), part=part, stored=stored)
    widths = _widths(schema, names, together)
    if sum(widths) != together.size:
        raise ConfigurationError(
            f"The columns {_each(names, widths)} have {sum(widths)} elements together, the model "
            f"expects shape {tuple(shape)}, which is {together.size}. Start the network with "
            f"keras.Input(({sum(widths)},)), or give it other columns."
        )
    for name, width in zip(names, widths, strict=True):
        _check_exact(schema, name, feature_column(schema, name, (width,), takes))
    _check_mixed(schema, names, takes)
    pieces = (Piece(name, width) for name, width in zip(names, widths, strict=True))
    return replace(together, beside=tuple(pieces))


def _called(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]}, ..., {names[-1]}"


def _each(names: Sequence[str], widths: Sequence[int]) -> str:
    return ", ".join(
        f"'{name}' ({width})" if width > 1 else f"'{name}'"
        for name, width in zip(names, widths, strict=True)
    )


def _widths(schema: T.StructType, names: Sequence[str], column: TensorColumn) -> list[int]:
    """Elements of each column; of one that does not say it, what the others leave."""
    known = [
        1 if is_single(schema, name) else vector_width(find_field(schema, name, "feature"))
        for name in names
    ]
    open_ones = [name for name, width in zip(names, known, strict=True) if width is None]
    if len(open_ones) > 1:
        raise ConfigurationError(
            f"Of columns side by side only one may leave open how many elements it has. Got "
            f"{', '.join(map(repr, open_ones))}: give each an input of its own, or put them into "
            "one vector with VectorAssembler."
        )
    left = column.size - sum(width or 0 for width in known)
    if open_ones and left < 1:
        raise ConfigurationError(
            f"The columns beside {open_ones[0]!r} have {column.size - left} elements already, the "
            f"model expects {column.size} for shape {column.shape}."
        )
    return [left if width is None else width for width in known]


def is_single(schema: T.StructType, name: str) -> bool:
    """Whether a column holds one number, boolean or string a row."""
    kind = _kind_of(schema, name)
    return isinstance(kind, (T.NumericType, T.BooleanType, T.StringType))


def holds_whole(schema: T.StructType, name: str) -> bool:
    """Whether a column holds whole numbers or booleans alone."""
    kind = _kind_of(schema, name)
    element = kind.elementType if isinstance(kind, T.ArrayType) else kind
    return isinstance(element, (T.IntegralType, T.BooleanType))


def _check_mixed(schema: T.StructType, names: Sequence[str], takes: str) -> None:
    """Refuse bigints that doubles beside them would round on their way to whole numbers."""
    whole = [name for name in names if holds_whole(schema, name)]
    longs = [name for name in whole if "bigint" in _kind_of(schema, name).simpleString()]
    if is_whole(takes) and longs and len(whole) < len(names):
        others = [name for name in names if name not in whole]
        raise ConfigurationError(
            f"The bigint column '{longs[0]}' cannot stand beside {others[0]!r} in an input of "
            f"{takes}: its large numbers would be rounded. Cast one of the two, or give each an "
            "input of its own."
        )


def _kind_of(schema: T.StructType, name: str) -> T.DataType:
    return find_field(schema, name, "feature").dataType


def _check_exact(schema: T.StructType, name: str, column: TensorColumn) -> None:
    """Refuse bytes, which are an image, and numbers that doubles beside them would round."""
    kind = _kind_of(schema, name)
    if isinstance(kind, T.BinaryType):
        raise ConfigurationError(
            f"The column '{name}' holds bytes, which cannot stand beside other columns. Give it "
            "an input of its own."
        )
    if is_whole(column.takes or column.dtype) and isinstance(kind, T.DecimalType):
        raise ConfigurationError(
            f"The column '{name}' holds decimals, which beside other columns would be rounded on "
            f"their way into {column.takes or column.dtype}. Cast it: "
            f"withColumn('{name}', col('{name}').cast('bigint'))."
        )
