"""Data sets of the characterization as DataFrames, and one of them trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from spark_dlobd.characterize.subjects.datasets import load_dataset
from spark_dlobd.errors import ConfigurationError
from tests.unit.test_characterize_datasets import write_cifar, write_images

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def rows(df: DataFrame) -> list[tuple[bytes, int]]:
    return sorted((bytes(row.image), row.label) for row in df.collect())


def test_cifar10(spark: SparkSession, tmp_path: Path) -> None:
    data = load_dataset(spark, "cifar10", path=write_cifar(tmp_path / "cifar"), rows=3)
    assert data.train.schema.simpleString() == "struct<image:binary,label:int>"
    assert sorted(label for _, label in rows(data.train)) == [0, 1, 9]
    image, label = rows(data.test)[0]
    assert (len(image), label, image[:6]) == (3072, 5, bytes([10, 20, 30, 0, 0, 0]))
    about = data.description
    assert (about.rows, about.test_rows, about.generated) == (3, 2, False)
    assert about.source == f"binary files in {tmp_path / 'cifar'}"


def test_generated_rows_do_not_depend_on_partitions(spark: SparkSession) -> None:
    one, three = (
        load_dataset(spark, "generated-mnist", rows=20, test_rows=5, partitions=partitions)
        for partitions in (1, 3)
    )
    assert rows(one.train) == rows(three.train)
    assert sorted(label for _, label in rows(one.train)) == sorted(list(range(10)) * 2)
    assert not set(rows(one.train)) & set(rows(one.test))
    assert one.description.generated
    assert one.description.source.startswith("drawn by a program from seed 0")


def test_folder_of_images(spark: SparkSession, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 5, classes=11, suffix=".jpg")
    data = load_dataset(spark, "imagenet", path=folder, rows=10, test_rows=2)
    assert (data.description.rows, data.description.test_rows) == (10, 2)
    found = rows(data.train)
    assert sorted(label for _, label in found) == list(range(10))
    for image, label in found:
        pixels = np.frombuffer(image, np.uint8).reshape(256, 256, 3)
        assert abs(int(np.median(pixels[..., 0])) - min(40 * label, 255)) <= 3


def test_a_broken_image_is_named(spark: SparkSession, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 5, classes=10)
    (folder / "n03" / "00.png").write_bytes(b"nothing")
    data = load_dataset(spark, "imagenet", path=folder)
    with pytest.raises(Exception, match=r"n03/00\.png cannot be decoded"):
        data.train.collect()


def test_bad_arguments(spark: SparkSession) -> None:
    with pytest.raises(ConfigurationError, match=r"rows must be None or at least 1. Got 0"):
        load_dataset(spark, "generated-mnist", rows=0)
    with pytest.raises(ConfigurationError, match="data must be one of"):
        load_dataset(spark, "imagenette")


def test_a_model_learns_generated_images(spark: SparkSession) -> None:
    pytest.importorskip("tensorflow")
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator

    from spark_dlobd import DLEstimator
    from spark_dlobd.characterize.subjects.models import build_model

    data = load_dataset(spark, "generated-mnist", rows=2000, test_rows=500)
    fitted = DLEstimator(
        model=build_model("softmax"),
        loss="sparse_categorical_crossentropy",
        optimizer="adam",
        metrics=["accuracy"],
        featuresCol="image",
        backend="local",
        epochs=2,
        tracking="none",
        verbose=0,
    ).fit(data.train)
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    assert evaluator.evaluate(fitted.transform(data.test)) > 0.7


def test_images_are_pixels_row_by_row(spark: SparkSession, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 5, classes=10)
    picture = Image.new("RGB", (256, 256))
    picture.putpixel((5, 2), (1, 2, 3))
    for file in (folder / "n00").iterdir():
        picture.save(file)
    data = load_dataset(spark, "imagenet", path=folder)
    image = next(row.image for row in data.train.collect() if row.label == 0)
    pixels = np.frombuffer(image, np.uint8).reshape(256, 256, 3)
    assert pixels[2, 5].tolist() == [1, 2, 3]
    assert pixels.sum() == 6
