"""Networks that say of several labels whether each is true, from DataFrame to evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml.evaluation import MultilabelClassificationEvaluator
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dlobd import DLModel
from spark_dlobd.errors import ConfigurationError, DataError
from spark_dlobd.job.network import OutputSpec
from tests.spark.tiny import X, estimator, linear

keras = pytest.importorskip("keras")

FLAGS = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])
"""Of the first rows; the eighth is that of the first."""
Y = np.vstack([FLAGS, FLAGS[:1]])
KERNEL = np.array([[2.0, -1.0, 0.0], [-1.0, 2.0, 0.5]])


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rows = [
        (i, Vectors.dense(x), [int(flag) for flag in y], Vectors.dense(y))
        for i, (x, y) in enumerate(zip(X, Y, strict=True))
    ]
    return spark.createDataFrame(rows, ["id", "features", "flags", "vector"]).coalesce(2).cache()


def network() -> Any:
    model = linear(3, "sigmoid")
    model.set_weights([KERNEL])
    model.compile(loss="binary_crossentropy", metrics=[keras.metrics.BinaryAccuracy(name="right")])
    return model


@pytest.fixture(scope="module")
def fitted(table: DataFrame) -> DLModel:
    params = {"labelCol": "flags", "loss": None, "metrics": None, "learningRate": 1e-9}
    return estimator(network(), **params).fit(table)


def collected(df: DataFrame) -> list[Any]:
    return df.orderBy("id").collect()


@pytest.mark.parametrize("label", ["flags", "vector"])
def test_one_step_on_each_label_by_itself(table: DataFrame, label: str) -> None:
    model = estimator(linear(3, "sigmoid"), labelCol=label, loss="binary_crossentropy").fit(table)
    expected = X.T @ (Y - 0.5) / Y.size
    np.testing.assert_allclose(model.getKerasModel().get_weights()[0], expected, atol=1e-6)
    assert model.numClasses == 3
    assert "3 labels from 2 float32" in repr(model)


def test_what_transform_gives(table: DataFrame, fitted: DLModel) -> None:
    scored = fitted.transform(table)
    types = dict(scored.dtypes)
    assert types["prediction"] == "array<double>"
    assert types["probability"] == types["rawPrediction"] == "vector"
    assert scored.schema == fitted.transformSchema(table.schema)
    logits = X @ KERNEL
    for row, expected in zip(collected(scored), logits, strict=True):
        assert row.prediction == [float(i) for i in np.flatnonzero(expected > 0)]
        np.testing.assert_allclose(row.probability, 1 / (1 + np.exp(-expected)), rtol=1e-5)
        np.testing.assert_allclose(row.rawPrediction, expected, rtol=1e-3, atol=1e-5)
        assert fitted.predict(row.features) == row.prediction
        np.testing.assert_allclose(fitted.predictProbability(row.features), row.probability, 1e-6)
    assert collected(scored)[4].prediction == [0.0]


def test_thresholds_of_each_label(table: DataFrame, fitted: DLModel) -> None:
    strict = fitted.copy().setThresholds([0.5, 0.5, 1.0])
    found = [row.prediction for row in collected(strict.transform(table))]
    assert found[1] == [1.0]
    assert fitted.copy().setThresholds([0.5, 0.5, 0.1]).predict(X[1]) == [1.0, 2.0]
    with pytest.raises(ConfigurationError, match=r"one value per label \(3\)"):
        fitted.copy().setThresholds([0.5, 0.5]).transform(table)


def test_sparks_evaluator_of_labels(table: DataFrame, fitted: DLModel) -> None:
    indices = F.expr("transform(filter(sequence(0, 2), i -> flags[i] = 1), i -> double(i))")
    scored = fitted.transform(table).withColumn("true", indices).orderBy("id")
    pairs = [(set(row.prediction), set(row.true)) for row in scored.collect()]
    assert pairs[0] == ({0.0}, {0.0, 2.0})

    def metric(name: str) -> float:
        return MultilabelClassificationEvaluator(labelCol="true", metricName=name).evaluate(scored)

    hits = sum(len(one & other) for one, other in pairs)
    assert metric("microPrecision") == pytest.approx(hits / sum(len(one) for one, _ in pairs))
    assert metric("subsetAccuracy") == sum(one == other for one, other in pairs) / len(pairs)
    assert metric("hammingLoss") == sum(len(one ^ other) for one, other in pairs) / 24


def test_kerass_own_metrics(table: DataFrame, fitted: DLModel) -> None:
    expected = network().evaluate(X, Y, verbose=0, return_dict=True)
    assert fitted.evaluate(table) == pytest.approx(expected, rel=1e-5)
    assert set(expected) == {"loss", "right"}


def test_labels_that_are_no_flags(spark: SparkSession) -> None:
    rows = [([1.0, 0.0], [0.0, 1.0, 0.0])] * 3 + [([1.0, 0.0], [0.5, 2.0, 1.0])] * 2
    df = spark.createDataFrame([*rows, ([1.0, 0.0], [1.0, 1.0])], ["features", "label"])
    own = estimator(linear(3, "sigmoid"), loss="binary_crossentropy")
    with pytest.raises(DataError) as caught:
        own.fit(df)
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 of 6 rows are not valid:"
    assert (
        lines[1] == "  'label' (label): 1 wrong length (expected 3 elements for shape (3,), seen 2)"
    )
    assert lines[2] == "  'label' (label): 2 neither 0 nor 1 (expected 0 or 1, seen 0.5 to 0.5)"
    assert "problemType='regression' learns other numbers" in lines[3]
    other = own.copy().setProblemType("regression").fit(df.limit(5))
    assert other.numClasses is None


def test_a_class_per_row_is_told_what_to_do(table: DataFrame) -> None:
    own = estimator(linear(3, "sigmoid"), labelCol="id", loss="binary_crossentropy")
    with pytest.raises(ConfigurationError, match=r"array or vector of 3 flags.*with a softmax"):
        own.transformSchema(table.schema)
    own = estimator(linear(3, "sigmoid"), labelCol="flags", loss="bce", classWeight={0: 2.0})
    with pytest.raises(ConfigurationError, match=r"one class per row.*several labels a row: use w"):
        own.transformSchema(table.schema)


def test_saved_and_trained_further(table: DataFrame, fitted: DLModel, tmp_path: Path) -> None:
    fitted.write().overwrite().save(str(tmp_path / "model"))
    loaded = DLModel.load(str(tmp_path / "model"))
    assert loaded.fitted().specs == (OutputSpec("multilabel", 3),)
    assert collected(loaded.transform(table)) == collected(fitted.transform(table))
    further = estimator(loaded, labelCol="flags", loss=None, learningRate=1e-9).fit(table)
    assert collected(further.transform(table))[1].prediction == [1.0, 2.0]
    uncompiled = linear(3, "sigmoid")
    assert loaded.setModel(uncompiled).fitted().specs == (OutputSpec("multilabel", 3),)
    assert DLModel().setModel(uncompiled, "multilabel").predict([1.0, 1.0]) == []


def test_what_was_saved_as_a_regression_stays_one(
    table: DataFrame, fitted: DLModel, tmp_path: Path
) -> None:
    as_before = estimator(
        network(), labelCol="flags", loss=None, metrics=None, problemType="regression"
    ).fit(table)
    as_before.save(str(tmp_path / "model"))
    loaded = DLModel.load(str(tmp_path / "model"))
    assert loaded.numClasses is None
    assert len(loaded.predict(X[0])) == 3
    assert loaded.setModel(network()).fitted().specs == (OutputSpec("regression", 3),)
