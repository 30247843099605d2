"""Recipes of docs/guide.md, run as they stand there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from pyspark.ml import Pipeline
from pyspark.ml.evaluation import MultilabelClassificationEvaluator
from pyspark.ml.feature import OneHotEncoder, StringIndexer, VectorAssembler
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import spark_dlobd
from spark_dlobd.data import materialize
from tests.pages import block

keras = pytest.importorskip("keras")
PAGE = "guide.md"
SETTINGS = {"tracking": "none", "verbose": 0, "backend": "local", "batchSize": 4}


def estimator(**given: Any) -> spark_dlobd.DLEstimator:
    """The estimator that the recipes call, quick and quiet."""
    return spark_dlobd.DLEstimator(**given, **SETTINGS)


def run(name: str, **names: Any) -> dict[str, Any]:
    """Run a block of the page with these names and return all there are at its end."""
    names |= {"keras": keras, "DLEstimator": estimator}
    exec(compile(block(PAGE, name), f"docs/{PAGE}: {name}", "exec"), names)
    return names


def test_label_of_several_outputs_is_an_array(spark: SparkSession) -> None:
    rows = [([1.0, 0.0, float(i)], i, i / 2) for i in range(8)]
    df = spark.createDataFrame(rows, "features array<double>, north int, east double")
    found = run("several outputs", df=df)
    assert found["labelled"].schema["label"].dataType.simpleString() == "array<double>"
    assert [len(row) for row in found["predicted"].collect()] == [2] * 8


def test_several_inputs_and_outputs(spark: SparkSession) -> None:
    rows = [([1.0, 0.0, float(i)], 20.0 + i, i, i % 2, i / 2) for i in range(8)]
    schema = "wide_vector array<double>, age double, visits int, clicked int, stars double"
    found = run("several inputs", visits=spark.createDataFrame(rows, schema))
    first = found["scored"].first()
    assert (len(first.clicked_probability), len(first.hidden_prediction)) == (2, 8)
    assert isinstance(first.stars_prediction, float)
    assert {"clicked_loss", "stars_loss", "clicked_accuracy"} < set(found["model"].history)


def test_transformations(spark: SparkSession) -> None:
    rows = [([float(i), 1.0, 2.0], float(i)) for i in range(12)]
    df = spark.createDataFrame(rows, "features array<double>, label double")
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    names = {"tf": tf, "keras": keras, "DLEstimator": estimator, "network": network}
    found = run("transformation", df=df, **names)
    assert found["mixing"].report["transformation"] == {"name": "mixed", "traced": True}
    assert found["mixing"].report["warnings"] == []
    assert found["noisy"].report["transformation"]["name"] == "GaussianNoise"


def test_several_labels_of_a_row(spark: SparkSession) -> None:
    rows = [([1.0, 0.0, float(i % 2)], [i % 2, 1]) for i in range(8)]
    df = spark.createDataFrame(rows, "features array<double>, flags array<int>")
    names = {"F": F, "MultilabelClassificationEvaluator": MultilabelClassificationEvaluator}
    found = run("several labels", df=df, **names)
    assert 0 <= found["f1"] <= 1
    assert {tuple(row.true) for row in found["scored"].collect()} == {(1.0,), (0.0, 1.0)}


def test_sequences_and_images_as_outputs(spark: SparkSession) -> None:
    df = spark.createDataFrame([([float(i % 5)] * 64,) for i in range(8)], "image array<double>")
    found = run("shapes", df=df, DLModel=spark_dlobd.DLModel)
    assert found["shape"] == [8, 8, 1]
    codes = found["codes"]
    assert codes.schema["prediction"].metadata["spark_dlobd"]["shape"] == [4, 4, 2]
    assert len(codes.first().prediction) == 32


def test_a_frozen_base_and_then_all_of_it(spark: SparkSession) -> None:
    rows = [(bytes([i]) * (32 * 32 * 3), i % 2) for i in range(4)]
    found = run("transfer", df=spark.createDataFrame(rows, "image binary, label int"))
    heads = [found[name].getKerasModel() for name in ("first", "second")]
    assert [len(head.trainable_weights) > 2 for head in heads] == [False, True]


@pytest.fixture(scope="module")
def prepared(spark: SparkSession) -> dict[str, Any]:
    rows = [(color, float(i), i % 2) for i, color in enumerate("rgbrgbrg")]
    train = spark.createDataFrame(rows, "color string, size double, label int").coalesce(1)
    names = (Pipeline, StringIndexer, OneHotEncoder, VectorAssembler)
    return run("width", train=train, **{kind.__name__: kind for kind in names})


def test_width_of_a_network_behind_one_hot_encoder(prepared: dict[str, Any]) -> None:
    # three colors, a place for others that dropLast takes away again, and the size
    assert prepared["width"] == 3 + 1
    (kernel, _) = prepared["fitted"].stages[-1].getKerasModel().get_weights()
    assert kernel.shape == (4, 1)


def test_category_that_training_lacked_is_scored(
    spark: SparkSession, prepared: dict[str, Any]
) -> None:
    new = spark.createDataFrame([("violet", 1.0)], "color string, size double")
    (row,) = prepared["fitted"].transform(new).collect()
    assert row["features"].toArray().tolist() == [0.0, 0.0, 0.0, 1.0]
    assert row["prediction"] in (0.0, 1.0)


def test_rows_of_several_fits_are_written_once(
    spark: SparkSession,
    prepared: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = []
    original = materialize.write_rows

    def counted(*args: Any, **kwargs: Any) -> Any:
        written.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(materialize, "write_rows", counted)
    names = {name: prepared[name] for name in ("preparation", "train", "estimator")}
    kept = run("write", spark=spark, url=f"file://{tmp_path}/rows", **names)
    rows = kept["rows"]
    assert rows.count() == 8
    found = run("keep", rows=rows, reuse_data=spark_dlobd.reuse_data, **names)
    first, second = (model.getKerasModel().get_weights() for model in found["models"])
    assert not np.array_equal(first[0], second[0])
    assert len(written) == 1
