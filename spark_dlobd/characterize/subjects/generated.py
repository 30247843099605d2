"""Images that were never photographed: for speed at real shapes, and for tests."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from spark_dlobd.characterize.subjects.frames import SCHEMA, record_batch

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

BEST_ACCURACY = 0.95
"""What a perfect model can reach: in one image of twenty another class's pattern is stronger."""

_BATCH_BYTES = 8 << 20
_CELLS = 4
_NOISE = 32.0
_TEST_STREAM = 1 << 63


def generated_frame(
    spark: SparkSession,
    rows: int,
    shape: tuple[int, int, int],
    classes: int,
    partitions: int,
    seed: int = 0,
    test: bool = False,
) -> DataFrame:
    """Images drawn on the executors when rows are asked for. Runs on the driver.

    A row depends on `seed`, its number and `test` alone, so every computation of the
    DataFrame has the same rows however it is partitioned. Row ``i`` has the label
    ``i % classes``.
    """
    draw = functools.partial(draw_batches, shape=shape, classes=classes, seed=seed, test=test)
    return spark.range(rows, numPartitions=partitions).mapInArrow(draw, SCHEMA)


def draw_batches(
    batches: Iterator[pa.RecordBatch],
    shape: tuple[int, int, int],
    classes: int,
    seed: int,
    test: bool,
) -> Iterator[pa.RecordBatch]:
    """Turn row numbers into images and labels. Runs on each worker."""
    patterns = class_patterns(shape, classes, seed)
    at_once = max(1, _BATCH_BYTES // int(np.prod(shape)))
    for batch in batches:
        numbers = batch.column(0).to_numpy()
        for first in range(0, len(numbers), at_once):
            part = numbers[first : first + at_once]
            pixels = np.stack([draw_image(int(i), patterns, seed, test) for i in part])
            yield record_batch(pixels.reshape(len(part), -1), part % classes)


def class_patterns(shape: tuple[int, int, int], classes: int, seed: int) -> NDArray[np.float32]:
    """Mean image of each class, ``(classes, height, width, channels)``: 4x4 plain cells."""
    height, width, channels = shape
    draws = np.random.default_rng(seed)
    cells = draws.uniform(32, 224, (classes, _CELLS, _CELLS, channels)).astype(np.float32)
    rows = np.arange(height) * _CELLS // height
    columns = np.arange(width) * _CELLS // width
    return cells[:, rows][:, :, columns]


def draw_image(
    number: int, patterns: NDArray[np.float32], seed: int, test: bool
) -> NDArray[np.uint8]:
    """Blend the pattern of the row's class with another one and add noise.

    The share of the own pattern is uniform between 0.474 and 1. Below one half, which
    is one image of twenty, the other class is the better guess: see `BEST_ACCURACY`.
    """
    classes = len(patterns)
    label = number % classes
    key = (seed << 64) | (number + (_TEST_STREAM if test else 0))
    draws = np.random.Generator(np.random.Philox(key=key))
    other = (label + draws.integers(1, classes)) % classes
    share = np.float32(draws.uniform(0.5 - 0.5 * (1 - BEST_ACCURACY) / BEST_ACCURACY, 1))
    blend = share * patterns[label] + (1 - share) * patterns[other]
    noise = draws.standard_normal(blend.shape, np.float32) * np.float32(_NOISE)
    pixels: NDArray[np.uint8] = np.clip(blend + noise, 0, 255).astype(np.uint8)
    return pixels
