"""Rows that validate as a DataFrame of their own."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.linalg import Vectors
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dlobd import DLEstimator, reuse_data
from spark_dlobd.data import materialize
from spark_dlobd.errors import ConfigurationError, DataError
from tests.spark.tiny import ROWS, X, Y, estimator, linear, squares_step, weights

keras = pytest.importorskip("keras")

HELD = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
LABELS = HELD @ [2.0, -1.0] + 1.0
NAMES = ["features", "label", "id"]


def frame(spark: SparkSession, x: Any, y: Any) -> DataFrame:
    rows = [([float(v) for v in row], float(value)) for row, value in zip(x, y, strict=True)]
    return spark.createDataFrame([(*row, i) for i, row in enumerate(rows)], NAMES).coalesce(2)


@pytest.fixture(scope="module")
def train(spark: SparkSession) -> DataFrame:
    return frame(spark, X, Y).cache()


@pytest.fixture(scope="module")
def held(spark: SparkSession) -> DataFrame:
    return frame(spark, HELD, LABELS).select("label", "features").cache()


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Rows that train and that validate, of every materialization."""
    found: list[tuple[int, int]] = []
    original = materialize.write_rows

    def counted(*args: Any, **kwargs: Any) -> Any:
        directory, data = original(*args, **kwargs)
        found.append((data.rows("train"), data.rows("validation")))
        return directory, data

    monkeypatch.setattr(materialize, "write_rows", counted)
    yield found


def test_all_rows_train_and_the_others_validate(
    train: DataFrame, held: DataFrame, writes: list[Any]
) -> None:
    stop = keras.callbacks.EarlyStopping(monitor="val_loss")
    model = estimator(linear(), validationData=held, callbacks=[stop]).fit(train)
    kernel = squares_step(X, Y)
    np.testing.assert_allclose(weights(model), kernel, rtol=1e-5)
    expected = np.mean((LABELS - (HELD @ kernel)[:, 0]) ** 2)
    assert model.history["val_loss"] == [pytest.approx(expected, rel=1e-5)]
    assert writes == [(ROWS, 3)]
    assert model.report["rows"] == {"train": ROWS, "validation": 3}


def test_numbers_of_another_width(train: DataFrame, held: DataFrame) -> None:
    other = held.withColumn("label", F.col("label").cast("float"))
    model = estimator(linear(), validationData=other).fit(train)
    assert model.history.keys() == {"loss", "val_loss"}


def test_it_is_set_like_a_param(train: DataFrame, held: DataFrame) -> None:
    own = estimator(linear(), validationData=held)
    assert own.validationData is held
    assert own.copy().validationData is held
    assert own.copy({own.epochs: 2}).validationData is held
    changed = own.copy()
    assert changed.setParams(validationData=None).validationData is None
    assert own.validationData is held
    assert changed.setValidationData(train).validationData is train
    assert pickle.loads(pickle.dumps(own)).validationData is None
    with pytest.raises(ConfigurationError, match=r"validationData must be a pyspark\.sql\.DataFra"):
        own.setValidationData([1, 2])  # type: ignore[arg-type]


def test_it_is_not_saved(held: DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = estimator(linear(), validationData=held)
    with caplog.at_level(logging.WARNING, "spark_dlobd"):
        own.save(str(tmp_path / "estimator"))
    assert "these are live objects: validationData. Set them again" in caplog.text
    assert DLEstimator.load(str(tmp_path / "estimator")).validationData is None


@pytest.mark.parametrize(
    ("name", "value"), [("validationFraction", 0.5), ("validationIndicatorCol", "id")]
)
def test_one_way_to_name_the_rows_that_validate(
    train: DataFrame, held: DataFrame, name: str, value: Any
) -> None:
    own = estimator(linear(), validationData=held, **{name: value})
    with pytest.raises(ConfigurationError, match=f"validationData and {name} exclude each other"):
        own.fit(train)
    with pytest.raises(ConfigurationError, match=f"validationData and {name} exclude each other"):
        own.transformSchema(train.schema)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda df: df.drop("label"),
            r"as this stage takes them\. The label column 'label' is not",
        ),
        (
            lambda df: df.withColumn("features", F.array("label")).withColumnRenamed("label", "y"),
            r"validationData must have the columns of the training rows, as this.*'label' is not",
        ),
        (
            lambda df: df.withColumn("label", F.col("label").cast("string")),
            r"validationData must have.*label column 'label' must be numeric\. Got string",
        ),
        (
            lambda df: df.withColumn("label", F.col("label").cast("int")),
            r"Its column 'label' is int, that of the training rows double: make both",
        ),
        (
            lambda df: df.withColumn("features", F.transform("features", lambda v: v.cast("int"))),
            r"Its column 'features' is array<int>, that of the training rows array<double>",
        ),
    ],
)
def test_columns_that_are_not_alike(
    train: DataFrame, held: DataFrame, change: Any, message: str
) -> None:
    own = estimator(linear(), validationData=change(held))
    with pytest.raises(ConfigurationError, match=message):
        own.transformSchema(train.schema)
    with pytest.raises(ConfigurationError, match=message):
        own.fit(train)


def test_vectors_of_another_width(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(Vectors.dense(1, 2), 1.0)] * 4, ["features", "label"])
    wide = rows.withMetadata("features", {"ml_attr": {"num_attrs": 3}})
    with pytest.raises(ConfigurationError, match=r"validationData must have.*vectors of shape \(3"):
        estimator(linear(), validationData=wide).transformSchema(rows.schema)


def test_rows_that_are_not_valid(train: DataFrame, held: DataFrame) -> None:
    nan = F.when(F.col("label") > 0, F.lit(float("nan"))).otherwise(F.col("label"))
    bad = held.withColumn("label", nan)
    own = estimator(linear(), validationData=bad)
    told = r"2 of 11 rows are not valid, 2 of them in validationData:\n  'label' \(label\): 2 NaN"
    with pytest.raises(DataError, match=told):
        own.fit(train)
    model = own.copy({own.handleInvalid: "skip"}).fit(train)
    assert model.report["rows"] == {"train": ROWS, "validation": 1}
    assert model.report["skipped_rows"] == 2
    with pytest.raises(DataError, match=r"validationData has no rows that can be used"):
        estimator(linear(), validationData=held.limit(0)).fit(train)


def test_maps_share_the_rows(train: DataFrame, held: DataFrame, writes: list[Any]) -> None:
    own = estimator(linear(), validationData=held)
    models = own.fit(train, [{own.learningRate: rate} for rate in (0.1, 0.2)])
    assert all("val_loss" in model.history for model in models)
    assert writes == [(ROWS, 3)]


def test_fits_within_reuse_data(
    train: DataFrame, held: DataFrame, spark: SparkSession, writes: list[Any]
) -> None:
    with reuse_data():
        for rows in (held, held, frame(spark, HELD[:2], LABELS[:2])):
            estimator(linear(), validationData=rows).fit(train)
    assert writes == [(ROWS, 3), (ROWS, 2)]


def test_every_fit_of_a_cross_validator_validates_on_it(
    train: DataFrame, held: DataFrame, writes: list[Any]
) -> None:
    own = estimator(linear(), validationData=held, batchSize=4)
    grid = ParamGridBuilder().addGrid(own.learningRate, [0.01, 0.03]).build()
    folds = CrossValidator(
        estimator=own,
        estimatorParamMaps=grid,
        evaluator=RegressionEvaluator(),
        numFolds=2,
        collectSubModels=True,
        seed=3,
    ).fit(train)
    models = [model for fold in folds.subModels for model in fold]
    assert [model.report["rows"]["validation"] for model in models] == [3] * 4
    assert "val_loss" in folds.bestModel.history
    assert [validation for _, validation in writes] == [3] * 3
    assert writes[0][0] + writes[1][0] == writes[2][0] == ROWS


def test_explain_counts_it(train: DataFrame, held: DataFrame) -> None:
    explanation = estimator(linear(), validationData=held).explain(train, workers=1)
    assert explanation.row_counts == (ROWS, 3)


def test_a_field_of_a_struct(train: DataFrame, held: DataFrame) -> None:
    def nested(df: DataFrame) -> DataFrame:
        return df.select(F.struct("features").alias("user"), "label")

    own = estimator(linear(), featuresCol="user.features", validationData=nested(held))
    assert "val_loss" in own.fit(nested(train)).history
