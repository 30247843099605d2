"""Images decoded and resized by a worker, against ``tf.data`` on the same JPEG files.

``python -m benchmarks.reading_images`` writes JPEG files of three sizes, materializes them as
an image column, and reads them in turns: as `ShardReader` does, with its two threads, and as
``tf.data`` does with ``tf.io.decode_jpeg``, ``tf.image.resize`` and two parallel calls. Every
figure is a median. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.reading import rates
from spark_dlobd.data.image_columns import image_column
from spark_dlobd.data.materialize import materialize
from spark_dlobd.data.reader import ShardReader
from spark_dlobd.job.columns import ColumnSpec, TensorColumn
from spark_dlobd.job.dataset import DatasetRef
from spark_dlobd.job.input_columns import ImageColumn
from spark_dlobd.job.plan import ShardPlan

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = (224, 224)
SIZES = ((500, 375), (375, 500), (640, 480))
BATCH = 32


def write_files(folder: Path, count: int) -> int:
    """Smooth noise, which compresses about as photographs do; returns bytes."""
    from PIL import Image

    generator = np.random.default_rng(3)
    total = 0
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        coarse = generator.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = generator.normal(0, 6, (height, width, 3))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        path = folder / f"{number:05d}.jpg"
        Image.fromarray(pixels).save(path, "JPEG", quality=85)
        total += path.stat().st_size
    return total


def read_ours(data: DatasetRef) -> int:
    plan = ShardPlan.of(data.train, world_size=1, batch_size=BATCH, seed=1)
    return sum(int(x.shape[0]) for x, _ in ShardReader(data, "train", plan, 0).dataset())


def read_tensorflow(paths: list[str]) -> int:
    import tensorflow as tf

    def pixels(path: Any) -> Any:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.image.resize(image, SIZE, antialias=True)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 2
    dataset = tf.data.Dataset.from_tensor_slices(paths).map(pixels, num_parallel_calls=2)
    return sum(int(x.shape[0]) for x in dataset.batch(BATCH).prefetch(4).with_options(options))


def main() -> None:
    from pyspark.sql import SparkSession

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.driver.host", "127.0.0.1").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoded = write_files(folder, options.images)
        df = spark.read.format("binaryFile").load(f"file://{folder}")
        df = df.selectExpr("content photo", "length(content) % 2 label")
        photo = ImageColumn("photo", size=SIZE)
        column = image_column(df.schema, photo, (*SIZE, 3), "float32")
        began = time.perf_counter()
        with materialize(df, ColumnSpec.of(column, TensorColumn("label", "int32", (), 2))) as data:
            written = time.perf_counter() - began
            paths = sorted(str(path) for path in folder.glob("*.jpg"))
            ways: dict[str, Callable[[], int]] = {
                "ours": partial(read_ours, data),
                "tensorflow": partial(read_tensorflow, paths),
            }
            found = rates(ways, options.repeats)
            disk = data.bytes / encoded
    spark.stop()
    print(
        json.dumps(
            {
                "name": "reading_images",
                "figure": round(found["ours"] / found["tensorflow"], 3),
                "wanted": ">= 0.9",
                "images_per_s": {name: round(rate) for name, rate in found.items()},
                "disk": round(disk, 3),
                "of_disk": "<= 1.1",
                "written_images_per_s": round(options.images / written),
            }
        )
    )


if __name__ == "__main__":
    main()
