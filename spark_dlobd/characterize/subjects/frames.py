"""DataFrames of images: one row has ``image`` (binary) and ``label`` (int)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_dlobd.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

SCHEMA = "image binary, label int"
_BATCH_BYTES = 8 << 20


def frame_of_arrays(
    spark: SparkSession, images: NDArray[Any], labels: NDArray[Any], partitions: int
) -> DataFrame:
    """One row an image, from arrays on the driver. Runs on the driver."""
    import pyarrow as pa

    batch = record_batch(images.reshape(len(images), -1), labels)
    return spark.createDataFrame(pa.Table.from_batches([batch])).repartition(partitions)


def frame_of_files(
    spark: SparkSession, files: list[tuple[str, int]], shape: tuple[int, ...], partitions: int
) -> DataFrame:
    """One row a file, read and decoded on the executors when rows are asked for.

    Runs on the driver. Every executor must reach the paths.
    """
    height, width, _ = shape
    decode = functools.partial(decode_files, height=height, width=width)

    listed = spark.createDataFrame(files, "path string, label int").repartition(partitions)
    return listed.mapInArrow(decode, SCHEMA)


def decode_files(
    batches: Iterator[pa.RecordBatch], height: int, width: int
) -> Iterator[pa.RecordBatch]:
    """Turn paths into pixels, some megabytes at a time. Runs on each worker."""
    rows = max(1, _BATCH_BYTES // (height * width * 3))
    for batch in batches:
        paths, labels = (batch.column(i).to_pylist() for i in range(2))
        for first in range(0, len(paths), rows):
            part = paths[first : first + rows]
            pixels = np.stack([decode_file(path, height, width) for path in part])
            yield record_batch(pixels.reshape(len(part), -1), labels[first : first + rows])


def decode_file(path: str, height: int, width: int) -> NDArray[np.uint8]:
    """Return the image as ``(height, width, 3)`` bytes, stretched to that size.

    Raises
    ------
    DataError
        If the file is not an image or is cut off.
    """
    from PIL import Image

    try:
        with Image.open(Path(path)) as image:
            pixels = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be decoded: {error}. Expected a whole JPEG or PNG file that every "
            "executor reaches under this path. Replace or remove it."
        ) from error
    return np.asarray(pixels, np.uint8)


def record_batch(pixels: NDArray[np.uint8], labels: Any) -> pa.RecordBatch:
    """Rows of `pixels` ``(rows, bytes)`` with their labels, without a copy per row."""
    import pyarrow as pa

    rows, size = pixels.shape
    offsets = (np.arange(rows + 1) * size).astype(np.int32)  # batches stay far below 2 GiB
    data = pa.py_buffer(np.ascontiguousarray(pixels))
    images = pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), data])
    return pa.RecordBatch.from_arrays(
        [images, pa.array(np.asarray(labels, np.int32))], names=["image", "label"]
    )
