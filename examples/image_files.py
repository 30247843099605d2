"""Images from files of different sizes: read, trained on and scored where they are.

Run it with ``python examples/image_files.py``. It draws circles and squares into JPEG files,
reads them with Spark, and trains a small network that tells them apart. The files travel and
lie encoded; workers decode and resize them ahead of the training, and flip and brighten those that
train.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _session import spark_session

from spark_dlobd import DLEstimator, ImageColumn

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SIZE = (32, 32)


def draw(folder: Path, count: int) -> None:
    """Circles and squares of many colours, in images of many sizes."""
    import numpy as np
    from PIL import Image, ImageDraw

    generator = np.random.default_rng(1)
    for number in range(count):
        shape = ("circle", "square")[number % 2]
        width, height = (int(extent) for extent in generator.integers(40, 200, 2))
        image = Image.new("RGB", (width, height), tuple(map(int, generator.integers(0, 90, 3))))
        radius = min(width, height) * generator.uniform(0.25, 0.45)
        box = [width / 2 - radius, height / 2 - radius, width / 2 + radius, height / 2 + radius]
        colour = tuple(map(int, generator.integers(150, 256, 3)))
        pen = ImageDraw.Draw(image)
        (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=colour)
        image.save(folder / f"{shape}-{number:04d}.jpg", quality=90)


def network() -> Any:
    """Two convolutions; scaling is part of the network."""
    import keras

    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((*SIZE, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 5, strides=2, activation="relu"),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )


def augmentation() -> Any:
    """What images that train go through, other numbers each step."""
    import keras

    return keras.Sequential([keras.layers.RandomFlip(), keras.layers.RandomBrightness(0.2)])


def run(spark: SparkSession, folder: Path, options: argparse.Namespace) -> None:
    """Train on four fifths of the files and judge on the rest."""
    draw(folder, options.images)
    files = spark.read.format("binaryFile").load(f"file://{folder}")
    rows = files.selectExpr("path", "content", "int(path like '%square%') label")
    train, test = rows.randomSplit([0.8, 0.2], seed=3)
    fitted = DLEstimator(
        model=network(),
        inputs={"photo": ImageColumn("content", size=SIZE)},
        transformation=augmentation(),
        loss="binary_crossentropy",
        optimizer="adam",
        learningRate=0.005,
        metrics=["accuracy"],
        batchSize=32,
        epochs=options.epochs,
        tracking="none",
    ).fit(train)
    scored = fitted.transform(test).cache()
    right = scored.filter("prediction = label").count()
    print(f"{right} of {scored.count()} files right: accuracy {right / scored.count():.3f}")
    wrong = [Path(row.path).name for row in scored.filter("prediction != label").take(3)]
    print("wrong ones:", ", ".join(wrong) or "none")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on image files.")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--master", default="local[2]", help="of Spark")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, spark_session("images", options.master) as spark:
        run(spark, Path(name), options)


if __name__ == "__main__":
    main()
