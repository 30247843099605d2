"""Rows that only validate: a share, those that a column marks, or a DataFrame of their own.

Runs on the driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark.sql import types as T

from spark_dlobd.data import columns as data_columns
from spark_dlobd.data.split import ValidationSplit
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.job.columns import ColumnSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import DataFrame

    from spark_dlobd.estimators.settings import FitSettings

VALIDATES = "spark_dlobd_validates"
"""Column that marks the rows of `validationData` beside those that train."""


def validation_split(settings: FitSettings, schema: T.StructType) -> ValidationSplit | None:
    """Which rows validate.

    Raises
    ------
    ConfigurationError
        If `schema` has no such column.
    """
    if settings.validationData is not None:
        return ValidationSplit(indicator=VALIDATES, apart=True)
    indicator = settings._value("validationIndicatorCol")
    if indicator:
        data_columns.check_indicator(schema, indicator)
        return ValidationSplit(indicator=indicator)
    fraction = settings.getValidationFraction()
    if fraction:
        return ValidationSplit(fraction=fraction, seed=settings.getSeed())
    return None


def check_types(schema: T.StructType, other: T.StructType, columns: ColumnSpec) -> None:
    """Raise unless the columns of two DataFrames can stand in one.

    Parameters
    ----------
    schema, other : pyspark.sql.types.StructType
        Of the rows that train, and of `validationData`.
    columns : ColumnSpec
        What is read of both.

    Raises
    ------
    ConfigurationError
        A column is of another type.
    """
    for name in _needed(schema, columns):
        wanted = data_columns.find_field(schema, name, "training").dataType
        found = data_columns.find_field(other, name, "validationData").dataType
        if not _go_together(wanted, found):
            raise ConfigurationError(
                f"validationData must have the columns of the training rows. Its column '{name}' "
                f"is {found.simpleString()}, that of the training rows {wanted.simpleString()}: "
                "make both in the same way."
            )


def with_validation(dataset: DataFrame, rows: DataFrame, columns: ColumnSpec) -> DataFrame:
    """Both as one DataFrame of the columns that are needed, marked by `VALIDATES`."""
    from pyspark.sql import functions as F

    names = [data_columns.quoted(name) for name in _needed(dataset.schema, columns)]
    train = dataset.select(*names, F.lit(False).alias(VALIDATES))
    return train.unionByName(rows.select(*names, F.lit(True).alias(VALIDATES)))


def _needed(schema: T.StructType, columns: ColumnSpec) -> Sequence[str]:
    """Columns of the DataFrame that are read, whole structs where a field of one is."""
    known = set(schema.fieldNames())
    sources = (name for column in columns.all for name in column.sources)
    return tuple(dict.fromkeys(s if s in known else s.partition(".")[0] for s in sources))


def _go_together(one: T.DataType, other: T.DataType) -> bool:
    """Whether Spark keeps the numbers of both in one column."""
    pair = {type(one), type(other)}
    whole = {T.ByteType, T.ShortType, T.IntegerType, T.LongType}
    same = _nullable(one) == _nullable(other)
    return same or pair <= whole or pair <= {T.FloatType, T.DoubleType}


def _nullable(kind: Any) -> Any:
    """The type with nulls allowed everywhere, which two columns need not agree on."""
    if isinstance(kind, T.ArrayType):
        return T.ArrayType(_nullable(kind.elementType))
    if isinstance(kind, T.StructType):
        return T.StructType(
            [T.StructField(field.name, _nullable(field.dataType)) for field in kind.fields]
        )
    return kind
