"""Arrays of any length as sequences of one length."""

from __future__ import annotations

import numpy as np
from pyspark.sql import types as T

from spark_dlobd.data.cast import cast, stored_dtype
from spark_dlobd.data.columns import check_takes, element_dtype, find_field, nesting
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.job.columns import Padding, TensorColumn
from spark_dlobd.job.input_columns import SequenceColumn


def sequence_column(
    schema: T.StructType,
    given: SequenceColumn,
    shape: tuple[int, ...],
    takes: str = "float32",
    part: str = "",
) -> TensorColumn:
    """Describe a column of arrays that are padded or cut to one length. Runs on the driver.

    Parameters
    ----------
    schema : pyspark.sql.types.StructType
        Schema of the DataFrame.
    given : SequenceColumn
        The column, its length and what stands where a row has less.
    shape : tuple of int
        Input shape of the model without the batch axis: ``(length,)``, or ``(length, features)``
        for arrays of arrays.
    takes : str, default "float32"
        Type of the model's input.
    part : str, default ""
        Name of that input, where there are several.

    Raises
    ------
    ConfigurationError
        The column is missing or holds something else, the length or the padding does not fit.
    """
    kind = find_field(schema, given.column, "feature").dataType
    depth, element = nesting(kind)
    strings = isinstance(element, T.StringType)
    dtype = None if strings else element_dtype(element)
    if depth not in (1, 2) or not (strings or dtype):
        raise ConfigurationError(
            f"SequenceColumn('{given.column}') must hold arrays of numbers or strings, or of "
            f"arrays of them. Got {kind.simpleString()}."
        )
    _check_kind(given.column, kind, strings, takes)
    _check_shape(given, depth, tuple(shape))
    stored = "string" if dtype is None else _stored(given, dtype, takes)
    return TensorColumn(
        given.column,
        stored,
        tuple(shape),
        takes=None if stored == takes else takes,
        nested=depth == 2,
        part=part,
        stored="text" if strings else "tensor",
        padding=padding_of(given, takes),
    )


def padding_of(given: SequenceColumn, takes: str) -> Padding:
    """What stands where a row has less, in an input of type `takes`.

    Raises
    ------
    ConfigurationError
        Such an input cannot hold it.
    """
    value = given.padding
    if takes == "string":
        if value != 0 and not isinstance(value, str):
            raise _unfit(given, "a str for strings, e.g. '[PAD]'")
        return Padding(value if isinstance(value, str) else "", given.align)
    if isinstance(value, str) or not _holds(takes, value):
        raise _unfit(given, f"a number that an input of {takes} can hold")
    return Padding(value, given.align)


def _check_kind(name: str, kind: T.DataType, strings: bool, takes: str) -> None:
    if takes == "string" and not strings:
        raise ConfigurationError(
            f"SequenceColumn('{name}') must hold strings, which the model takes. Got "
            f"{kind.simpleString()}: cast it to an array of strings, or give "
            "keras.Input(..., dtype='float32')."
        )
    if strings and takes != "string":
        raise ConfigurationError(
            f"SequenceColumn('{name}') holds strings, the model takes {takes}. Start the network "
            "with keras.Input(..., dtype='string') and keras.layers.StringLookup, or index the "
            "strings."
        )
    if not strings:
        check_takes(takes)


def _check_shape(given: SequenceColumn, depth: int, shape: tuple[int, ...]) -> None:
    """Refuse a network that takes another length, or steps of another kind."""
    fits = len(shape) == 2 if depth == 2 else shape[1:] in ((), (1,))
    if shape and shape[0] == given.length and fits and all(extent > 0 for extent in shape):
        return
    wanted = f"({given.length}, features)" if depth == 2 else f"({given.length},)"
    what = "arrays of arrays" if depth == 2 else "arrays"
    raise ConfigurationError(
        f"SequenceColumn('{given.column}', length={given.length}) makes tensors of shape {wanted} "
        f"of its {what}, the model expects shape {shape}. Start the network with "
        f"keras.Input({wanted}), or give another length."
    )


def _stored(given: SequenceColumn, element: str, takes: str) -> str:
    """Type that holds the elements and the padding."""
    narrow = stored_dtype(element, takes)
    return narrow if not isinstance(given.padding, str) and _holds(narrow, given.padding) else takes


def _holds(dtype: str, value: float) -> bool:
    return not cast(np.array([value]), dtype)[1]


def _unfit(given: SequenceColumn, expected: str) -> ConfigurationError:
    return ConfigurationError(
        f"padding of SequenceColumn('{given.column}') must be {expected}. Got {given.padding!r}."
    )
