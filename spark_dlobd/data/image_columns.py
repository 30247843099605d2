"""Columns of images as tensors. Runs on the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import types as T

from spark_dlobd.data.columns import check_takes, find_field, reference
from spark_dlobd.data.images import NAME, RAW
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.job.columns import TensorColumn
from spark_dlobd.job.input_columns import ImageColumn

if TYPE_CHECKING:
    from pyspark.sql import Column

_STRUCT = ("height", "width", "nChannels", "data")


def image_column(
    schema: T.StructType, given: ImageColumn, shape: tuple[int, ...], takes: str, part: str = ""
) -> TensorColumn:
    """Describe a column of images.

    Parameters
    ----------
    schema : pyspark.sql.types.StructType
        Schema of the DataFrame.
    given : ImageColumn
        The column, and the size that images are brought to.
    shape : tuple of int
        Input shape of the model without the batch axis.
    takes : str
        Type of the model's input.
    part : str, default ""
        Name of that input, where there are several.

    Raises
    ------
    ConfigurationError
        The column is missing or holds no images, or the model takes another size.
    """
    check_takes(takes)
    found = find_field(schema, given.column, "image").dataType
    if not isinstance(found, T.BinaryType) and not is_image_struct(found):
        raise ConfigurationError(
            f"The image column '{given.column}' must hold the content of files (binary) or Spark's "
            f"image struct. Got {found.simpleString()}: spark.read.format('binaryFile') and "
            "format('image') give these."
        )
    wanted = (*given.size, given.channels)
    if shape != wanted and not (given.channels == 1 and shape == given.size):
        raise ConfigurationError(
            f"The image column '{given.column}' is brought to {wanted}, the model expects shape "
            f"{shape}. Give ImageColumn size={shape[:2]} and channels="
            f"{shape[2] if len(shape) > 2 else 1}, or start the network with keras.Input({wanted})."
        )
    return TensorColumn(
        given.column,
        "uint8",
        shape,
        takes=None if takes == "uint8" else takes,
        part=part,
        stored="image",
    )


def is_image_struct(kind: T.DataType) -> bool:
    """Whether it is what Spark's reader of images gives."""
    return isinstance(kind, T.StructType) and set(_STRUCT) <= set(kind.fieldNames())


def image_expression(schema: T.StructType, name: str) -> Column:
    """Spark expression of a column of images: content of files, or pixels behind a header.

    Before it a line with the name of the file where the DataFrame knows it, for messages.
    """
    from pyspark.sql import functions as F

    source = F.col(reference(schema, name))
    kind = find_field(schema, name, "image").dataType
    if not isinstance(kind, T.StructType):
        # the reader of files gives their names beside
        path = [f for f in schema.fields if f.name == "path" and f.dataType == T.StringType()]
        return F.concat(_line(NAME, F.col("path")), source) if path else source
    height, width, channels, data = (source.getField(field) for field in _STRUCT)
    content = F.concat(_line(RAW, F.concat_ws(" ", height, width, channels)), data)
    if "origin" not in kind.fieldNames():
        return content
    return F.concat(_line(NAME, source.getField("origin")), content)


def _line(begin: bytes, text: Column) -> Column:
    """A line of bytes before those of an image; no null, which would hide the image."""
    from pyspark.sql import functions as F

    one_line = F.regexp_replace(F.coalesce(text, F.lit("")), "\n", " ")
    return F.encode(F.concat(F.lit(begin.decode()), one_line, F.lit("\n")), "UTF-8")
