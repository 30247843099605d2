"""Spark's meta-algorithms, pipelines in pipelines and sparse features, with numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import OneVsRest, OneVsRestModel
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.feature import ElementwiseProduct, VectorAssembler
from pyspark.ml.linalg import Vectors
from pyspark.ml.tuning import (
    CrossValidator,
    CrossValidatorModel,
    ParamGridBuilder,
    TrainValidationSplit,
)
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dlobd import HorovodConfig, ShuffleConfig
from tests.spark.tiny import CLASSES, ROWS, X, Y, estimator, linear, squares_step, weights

pytest.importorskip("keras")

RATES = (0.01, 0.03)


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rows = [
        (i, Vectors.dense(x), float(x[0]), float(x[1]), float(y), int(label), i % 2)
        for i, (x, y, label) in enumerate(zip(X, Y, CLASSES, strict=True))
    ]
    names = ["id", "features", "a", "b", "y", "label", "fold"]
    return spark.createDataFrame(rows, names).coalesce(2).cache()


def predictions(df: DataFrame) -> list[Any]:
    return [row.prediction for row in df.orderBy("id").select("prediction").collect()]


@pytest.mark.parametrize(
    ("backend", "workers"), [("local", 1), (ShuffleConfig(), 2)], ids=["local", "shuffle"]
)
def test_one_vs_rest(table: DataFrame, tmp_path: Path, backend: Any, workers: int) -> None:
    binary = estimator(
        linear(1, "sigmoid"), loss="binary_crossentropy", backend=backend, numTrainWorkers=workers
    )
    model = OneVsRest(classifier=binary, parallelism=2).fit(table.select("id", "features", "label"))
    kernels = np.stack([X.T @ (np.equal(CLASSES, k) - 0.5) / ROWS for k in range(3)], axis=1)
    for k, one in enumerate(model.models):
        np.testing.assert_allclose(weights(one)[:, 0], kernels[:, k], rtol=1e-5)
    expected = np.argmax(X @ kernels, axis=1).tolist()
    assert predictions(model.transform(table)) == expected
    model.save(str(tmp_path / "model"))
    loaded = OneVsRestModel.load(str(tmp_path / "model"))
    assert predictions(loaded.transform(table)) == expected


def expected_metrics() -> list[float]:
    """Mean over both folds of the error of one step of each rate, by hand."""
    folds = [np.arange(ROWS) % 2 == fold for fold in (0, 1)]
    errors = [
        [
            np.mean((X[held] @ (rate * squares_step(X[~held], Y[~held]))[:, 0] - Y[held]) ** 2)
            for held in folds
        ]
        for rate in RATES
    ]
    return [float(np.mean(both)) for both in errors]


@pytest.mark.parametrize("backend", [ShuffleConfig(), HorovodConfig()], ids=["shuffle", "horovod"])
def test_cross_validator_whose_fits_take_turns(
    table: DataFrame, tmp_path: Path, backend: Any
) -> None:
    """Two fits at a time that each want all slots."""
    est = estimator(linear(), labelCol="y", backend=backend, numTrainWorkers=2)
    validator = CrossValidator(
        estimator=est,
        estimatorParamMaps=ParamGridBuilder().addGrid(est.learningRate, list(RATES)).build(),
        evaluator=RegressionEvaluator(metricName="mse", labelCol="y"),
        numFolds=2,
        foldCol="fold",
        parallelism=2,
        collectSubModels=True,
    )
    best = validator.fit(table)
    assert best.avgMetrics == pytest.approx(expected_metrics(), rel=1e-5)
    held = np.arange(ROWS) % 2 == 1
    step = squares_step(X[~held], Y[~held])
    for rate, model in zip(RATES, best.subModels[1], strict=True):
        np.testing.assert_allclose(weights(model), rate * step, rtol=1e-5)
        assert model.uid == est.uid and model.report["backend"] == backend.create().name
    best.save(str(tmp_path / "best"))
    loaded = CrossValidatorModel.load(str(tmp_path / "best"))
    assert predictions(loaded.transform(table)) == predictions(best.transform(table))
    assert len(loaded.subModels) == 2 and loaded.bestModel.uid == est.uid


def test_train_validation_split(table: DataFrame) -> None:
    est = estimator(linear(), labelCol="y")
    split = TrainValidationSplit(
        estimator=est,
        estimatorParamMaps=ParamGridBuilder().addGrid(est.learningRate, list(RATES)).build(),
        evaluator=RegressionEvaluator(metricName="mse", labelCol="y"),
        trainRatio=0.6,
        seed=7,
        parallelism=2,
        collectSubModels=True,
    )
    found = split.fit(table)
    drawn = table.select("id", (F.rand(7) >= 0.6).alias("held")).orderBy("id").collect()
    held = np.array([row.held for row in drawn])
    assert 0 < held.sum() < ROWS
    step = squares_step(X[~held], Y[~held])
    errors = [np.mean((X[held] @ (rate * step)[:, 0] - Y[held]) ** 2) for rate in RATES]
    assert found.validationMetrics == pytest.approx(errors, rel=1e-4)
    for rate, model in zip(RATES, found.subModels, strict=True):
        np.testing.assert_allclose(weights(model), rate * step, rtol=1e-4)
    best = RATES[int(np.argmin(errors))] * squares_step(X, Y)
    np.testing.assert_allclose(weights(found.bestModel), best, rtol=1e-5)


def test_pipelines_three_deep(table: DataFrame, tmp_path: Path) -> None:
    est = estimator(linear(), labelCol="y", featuresCol="scaled", learningRate=0.01)
    doubled = ElementwiseProduct(
        scalingVec=Vectors.dense(2.0, 2.0), inputCol="both", outputCol="scaled"
    )
    inner = Pipeline(stages=[doubled, Pipeline(stages=[est])])
    assembler = VectorAssembler(inputCols=["a", "b"], outputCol="both")
    Pipeline(stages=[assembler, inner]).save(str(tmp_path / "pipeline"))
    fitted = Pipeline.load(str(tmp_path / "pipeline")).fit(table)
    fitted.save(str(tmp_path / "model"))
    loaded = PipelineModel.load(str(tmp_path / "model"))
    kernel = 0.01 * squares_step(2 * X, Y)
    for model in (fitted, loaded):
        last = model.stages[1].stages[1].stages[0]
        assert last.uid == est.uid
        np.testing.assert_allclose(weights(last), kernel, rtol=1e-5)
        found = predictions(model.transform(table))
        np.testing.assert_allclose(found, (2 * X @ kernel)[:, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("backend", "workers"), [("local", 2), (ShuffleConfig(), 2)], ids=["local", "shuffle"]
)
def test_sparse_features(table: DataFrame, backend: Any, workers: int) -> None:
    rows = [
        (i, Vectors.sparse(2, [(j, float(x[j])) for j in (0, 1) if x[j]]), float(y))
        for i, (x, y) in enumerate(zip(X, Y, strict=True))
    ]
    sparse = table.sparkSession.createDataFrame(rows, ["id", "features", "y"]).repartition(2)
    # empty and mixed with dense ones
    more = [(ROWS, Vectors.sparse(2, {}), 3.0), (ROWS + 1, Vectors.dense(1.0, 1.0), -2.0)]
    df = sparse.union(table.sparkSession.createDataFrame(more, sparse.schema))
    x, y = np.vstack([X, [[0, 0], [1, 1]]]), np.append(Y, [3.0, -2.0])
    model = estimator(
        linear(), labelCol="y", backend=backend, numTrainWorkers=workers, batchSize=ROWS + 2
    ).fit(df)
    np.testing.assert_allclose(weights(model), squares_step(x, y), rtol=1e-5)
    found = predictions(model.transform(df))
    np.testing.assert_allclose(found, (x @ squares_step(x, y))[:, 0], rtol=1e-5)
    assert model.predict(Vectors.sparse(2, {})) == 0.0
