"""Autoencoders, embeddings and classes of each position, from DataFrame to DataFrame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dlobd import DLModel
from spark_dlobd.errors import ConfigurationError, DataError
from tests.spark.tiny import ROWS, X, estimator, linear, squares_step, weights

keras = pytest.importorskip("keras")

SHAPE = (2, 2, 3)
RNG = np.random.default_rng(4)
IMAGES = RNG.integers(0, 4, (ROWS, 2, 2, 1)).astype("float64")
MASKS = RNG.integers(0, 3, (ROWS, 2, 2))
ROW_WEIGHTS = np.arange(1.0, ROWS + 1)


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rows = [
        (
            i,
            Vectors.dense(X[i]),
            [float(v) for v in X[i]],
            IMAGES[i].tolist(),
            IMAGES[i].reshape(-1).astype("uint8").tobytes(),
            MASKS[i].tolist(),
            [int(v) for v in MASKS[i].reshape(-1)],
            MASKS[i].astype("uint8").tobytes(),
            float(ROW_WEIGHTS[i]),
        )
        for i in range(ROWS)
    ]
    names = ["id", "vector", "array", "image", "bytes", "nested", "flat", "mask", "w"]
    return spark.createDataFrame(rows, names).coalesce(2).cache()


def values(df: DataFrame, column: str) -> Any:
    return np.array([list(row[0]) for row in df.orderBy("id").select(column).collect()])


def segmenter(seed: int = 1, **options: Any) -> Any:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Conv2D(3, 1, activation="softmax", **options)]
    )


@pytest.mark.parametrize("column", ["vector", "array"])
def test_an_autoencoder_learns_its_features(table: DataFrame, column: str) -> None:
    model = estimator(linear(2), featuresCol=column, labelCol=column).fit(table)
    np.testing.assert_allclose(weights(model), squares_step(X, X), rtol=1e-5)
    scored = model.transform(table)
    assert scored.schema["prediction"].metadata == {"spark_dlobd": {"shape": [2]}}
    np.testing.assert_allclose(values(scored, "prediction"), X @ weights(model), rtol=1e-5)


def test_a_column_keeps_its_attributes_beside_the_shape(table: DataFrame) -> None:
    split = table.select("id", *(F.col("array")[i].alias(f"x{i}") for i in range(2)))
    rows = VectorAssembler(inputCols=["x0", "x1"], outputCol="both").transform(split)
    model = estimator(linear(2), featuresCol="both", labelCol="both").fit(rows)
    metadata = model.transform(rows).schema["prediction"].metadata
    assert metadata == {**rows.schema["both"].metadata, "spark_dlobd": {"shape": [2]}}


@pytest.mark.parametrize("column", ["image", "bytes"])
def test_an_autoencoder_of_images(table: DataFrame, column: str) -> None:
    net = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Conv2D(1, 1, use_bias=False, name="last")]
    )
    net.get_layer("last").set_weights([np.zeros((1, 1, 1, 1))])
    model = estimator(net, featuresCol=column, labelCol=column).fit(table)
    expected = 2 * np.mean(IMAGES**2)
    np.testing.assert_allclose(np.ravel(weights(model)), expected, rtol=1e-5)
    scored = model.transform(table)
    assert scored.schema["prediction"].metadata == {"spark_dlobd": {"shape": [2, 2, 1]}}
    found = values(scored, "prediction").reshape(IMAGES.shape)
    np.testing.assert_allclose(found, expected * IMAGES, rtol=1e-5)
    assert model.predict(IMAGES[0]) == pytest.approx(found[0].reshape(-1).tolist())


def test_classes_are_no_autoencoder(table: DataFrame) -> None:
    told = r"labelCol and featuresCol must name different columns\. Both are 'array'\. Only an"
    for loss in ("binary_crossentropy", "categorical_crossentropy"):
        own = estimator(linear(2, "sigmoid"), featuresCol="array", labelCol="array", loss=loss)
        with pytest.raises(ConfigurationError, match=told):
            own.transformSchema(table.schema)
    own.setProblemType("regression").transformSchema(table.schema)
    with pytest.raises(ConfigurationError, match=told):
        own.copy().setModel(linear(1)).setLoss("mse").transformSchema(table.schema)


def test_an_autoencoder_by_name_of_its_output(table: DataFrame) -> None:
    x = keras.Input((2,), name="x")
    code = keras.layers.Dense(1, name="code")(x)
    net = keras.Model(x, [keras.layers.Dense(2, name="again")(code), code])
    settings = {"inputs": {"x": "vector"}, "labels": {"again": "vector"}}
    model = estimator(net, loss={"again": "mse"}, learningRate=0.01, **settings).fit(table)
    scored = model.transform(table)
    assert scored.schema["again_prediction"].metadata == {"spark_dlobd": {"shape": [2]}}
    assert dict(scored.dtypes)["code_prediction"] == "double"


def test_embeddings_of_a_network_that_is_not_compiled(table: DataFrame) -> None:
    whole = segmenter()
    extractor = keras.Model(whole.inputs, whole.layers[0].output)
    model = DLModel(featuresCol="image").setModel(extractor)
    scored = model.transform(table)
    assert scored.schema["prediction"].metadata == {"spark_dlobd": {"shape": list(SHAPE)}}
    expected = extractor.predict(IMAGES, verbose=0).reshape(ROWS, -1)
    np.testing.assert_allclose(values(scored, "prediction"), expected, rtol=1e-5)
    assert scored.schema == model.transformSchema(table.schema)


@pytest.mark.parametrize("label", ["nested", "flat", "mask"])
def test_classes_of_each_position(table: DataFrame, label: str) -> None:
    loss = "sparse_categorical_crossentropy"
    own = estimator(segmenter(), featuresCol="image", labelCol=label, loss=loss, metrics=["acc"])
    model = own.fit(table)
    net = segmenter()
    net.compile("sgd", loss, metrics=["acc"])
    net.optimizer.learning_rate = 1.0
    net.train_on_batch(IMAGES, MASKS)
    np.testing.assert_allclose(weights(model), net.get_weights()[0], rtol=1e-4)
    expected = net.predict(IMAGES, verbose=0)
    scored = model.transform(table)
    assert scored.schema["prediction"].metadata == {"spark_dlobd": {"shape": [2, 2]}}
    for field in ("probability", "rawPrediction"):
        assert scored.schema[field].metadata == {"spark_dlobd": {"shape": list(SHAPE)}}
        assert dict(scored.dtypes)[field] == "array<double>"
    found = values(scored, "probability").reshape(-1, *SHAPE)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert (values(scored, "prediction").reshape(MASKS.shape) == expected.argmax(axis=-1)).all()
    told = net.evaluate(IMAGES, MASKS, verbose=0, return_dict=True)
    assert model.evaluate(table) == pytest.approx(told, rel=1e-4)
    assert model.numClasses == 3
    assert "3 classes at 2x2 positions" in repr(model)


def test_weights_of_rows_with_classes_of_each_position(table: DataFrame) -> None:
    loss = "sparse_categorical_crossentropy"
    own = estimator(segmenter(), featuresCol="image", labelCol="nested", loss=loss, weightCol="w")
    model = own.fit(table)
    net = segmenter()
    net.compile(keras.optimizers.SGD(1.0), loss)
    net.train_on_batch(IMAGES, MASKS, ROW_WEIGHTS[:, None, None])
    np.testing.assert_allclose(weights(model), net.get_weights()[0], rtol=1e-4)
    told = net.evaluate(
        IMAGES, MASKS, sample_weight=ROW_WEIGHTS[:, None, None], verbose=0, return_dict=True
    )
    assert model.evaluate(table) == pytest.approx(told, rel=1e-4)


def test_saved_and_given_other_weights(table: DataFrame, tmp_path: Path) -> None:
    net = segmenter()
    net.compile("sgd", "sparse_categorical_crossentropy")
    model = DLModel(featuresCol="image").setModel(net)
    model.save(str(tmp_path / "model"))
    loaded = DLModel.load(str(tmp_path / "model"))
    scored = model.transform(table)
    assert loaded.transformSchema(table.schema) == scored.schema
    assert (values(loaded.transform(table), "probability") == values(scored, "probability")).all()
    other = loaded.setModel(segmenter(2))
    expected = segmenter(2).predict(IMAGES, verbose=0)
    found = values(other.transform(table), "probability").reshape(-1, *SHAPE)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_classes_that_are_none_and_other_mistakes(table: DataFrame) -> None:
    loss = "sparse_categorical_crossentropy"
    settings = {"featuresCol": "image", "loss": loss}
    bad = table.withColumn(
        "flat", F.when(F.col("id") < 2, F.array(*[F.lit(3)] * 4)).otherwise(F.col("flat"))
    )
    told = (
        r"2 of 8 rows are not valid:\n  'flat' \(label\): 2 outside the classes \(expected 0 to 2"
    )
    with pytest.raises(DataError, match=told):
        estimator(segmenter(), labelCol="flat", **settings).fit(bad)
    with pytest.raises(
        ConfigurationError, match=r"array of class indices of shape \(2, 2\). Got b"
    ):
        estimator(segmenter(), labelCol="id", **settings).transformSchema(table.schema)
    with pytest.raises(ConfigurationError, match=r"one class per row.*several classes a row"):
        own = estimator(segmenter(), labelCol="flat", classWeight={0: 2.0}, **settings)
        own.transformSchema(table.schema)
