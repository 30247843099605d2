from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.tuning import (
    CrossValidator,
    CrossValidatorModel,
    ParamGridBuilder,
    TrainValidationSplit,
    TrainValidationSplitModel,
)
from pyspark.sql import DataFrame, SparkSession

from spark_dlobd import DLEstimator, reuse_data
from spark_dlobd.data import materialize
from spark_dlobd.errors import ConfigurationError, NonFiniteLossError, TrainingError
from tests.spark.tiny import ROWS, X, Y, estimator, linear, squares_step, weights

pytest.importorskip("keras")

RATES = (0.01, 0.03)


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rows = [
        (i, [float(v) for v in x], float(x[0]), float(x[1]), float(y), i % 2)
        for i, (x, y) in enumerate(zip(X, Y, strict=True))
    ]
    names = ["id", "features", "a", "b", "label", "fold"]
    return spark.createDataFrame(rows, names).coalesce(2).cache()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Directories of all materializations of a test; afterwards none is left."""
    found: list[str] = []
    original = materialize.write_rows

    def counted(*args: Any, **kwargs: Any) -> Any:
        directory, data = original(*args, **kwargs)
        found.append(data.root)
        return directory, data

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(materialize, "write_rows", counted)
    yield found
    # A CrossValidator that failed does not wait for the fits of its other threads.
    deadline = time.monotonic() + 10
    while left := [p.name for p in temporary.iterdir() if p.name.startswith("spark-dlobd")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def regressor(**params: Any) -> DLEstimator:
    return estimator(linear(), **params)


def rate_grid(est: DLEstimator, rates: tuple[float, ...] = RATES) -> list[dict[Any, Any]]:
    return ParamGridBuilder().addGrid(est.learningRate, list(rates)).build()


def cross_validator(stage: Any, grid: Any, **params: Any) -> CrossValidator:
    return CrossValidator(
        estimator=stage,
        estimatorParamMaps=grid,
        evaluator=RegressionEvaluator(metricName="mse"),
        numFolds=2,
        foldCol="fold",
        **params,
    )


def expected_metrics() -> list[float]:
    """Mean over both folds of the error of one step of each rate, by hand."""
    folds = [np.arange(ROWS) % 2 == fold for fold in (0, 1)]
    return [
        float(
            np.mean(
                [
                    np.mean(
                        (X[held] @ (rate * squares_step(X[~held], Y[~held]))[:, 0] - Y[held]) ** 2
                    )
                    for held in folds
                ]
            )
        )
        for rate in RATES
    ]


def test_one_param_map(table: DataFrame, written: list[str]) -> None:
    est = regressor()
    model = est.fit(table, {est.epochs: 2, est.learningRate: 0.01, est.predictionCol: "p"})
    assert len(model.history["loss"]) == 2
    assert est.getEpochs() == 1 and est.getPredictionCol() == "prediction"
    assert model.transform(table).columns[-1] == "p"
    assert len(written) == 1


def test_a_list_of_param_maps_writes_the_data_once(table: DataFrame, written: list[str]) -> None:
    est = regressor()
    models = est.fit(table, rate_grid(est))
    for rate, model in zip(RATES, models, strict=True):
        np.testing.assert_allclose(weights(model), rate * squares_step(X, Y), rtol=1e-5)
    assert len(written) == 1


def test_maps_that_need_other_data_get_it(table: DataFrame, written: list[str]) -> None:
    est = regressor(learningRate=0.01)
    df = table.withColumnRenamed("fold", "other")
    maps: list[dict[Any, Any]] = [
        {est.epochs: 2},
        {est.labelCol: "a"},
        {est.validationFraction: 0.5, est.seed: 3},
        {est.batchSize: 4},
    ]
    models = est.fit(df, maps)
    assert len(written) == 3
    np.testing.assert_allclose(weights(models[1]), 0.01 * squares_step(X, X[:, 0]), rtol=1e-5)
    assert models[2].report["rows"]["validation"] > 0
    assert models[3].report["steps_per_epoch"] == 2


def test_fit_multiple_from_several_threads(table: DataFrame, written: list[str]) -> None:
    rates = (0.001, 0.01, 0.02, 0.03)
    est = regressor()
    models = est.fitMultiple(table, rate_grid(est, rates))
    with ThreadPool(3) as pool:
        found = dict(pool.map(lambda _: next(models), rates, chunksize=1))
    for index, rate in enumerate(rates):
        np.testing.assert_allclose(weights(found[index]), rate * squares_step(X, Y), rtol=1e-5)
    assert len(written) == 1
    with pytest.raises(StopIteration):
        next(models)


def test_an_abandoned_iterator_leaves_nothing(table: DataFrame, written: list[str]) -> None:
    est = regressor()
    models = est.fitMultiple(table, rate_grid(est))
    next(models)
    del models
    assert len(written) == 1


def test_a_failing_map_ends_the_others(table: DataFrame, written: list[str]) -> None:
    est = regressor(batchSize=2)
    models = est.fitMultiple(table, rate_grid(est, (1e30, 0.01)))
    with pytest.raises(NonFiniteLossError, match="epoch 0, step 1"):
        next(models)
    with pytest.raises(TrainingError, match="An earlier fit on the same data failed"):
        next(models)


def test_a_wrong_map_is_refused_before_any_fit(table: DataFrame, written: list[str]) -> None:
    est = regressor()
    with pytest.raises(ConfigurationError, match="epochs must be an int"):
        est.fitMultiple(table, [{est.epochs: 1}, {est.epochs: 0}])
    assert written == []


def test_cross_validator(table: DataFrame, written: list[str]) -> None:
    est = regressor()
    validator = cross_validator(est, rate_grid(est), parallelism=2, collectSubModels=True)
    best = validator.fit(table)
    assert best.avgMetrics == pytest.approx(expected_metrics(), rel=1e-5)
    rate = RATES[int(np.argmin(expected_metrics()))]
    np.testing.assert_allclose(weights(best.bestModel), rate * squares_step(X, Y), rtol=1e-5)
    # Two folds, and the whole for the best.
    assert len(written) == 3
    held = np.arange(ROWS) % 2 == 1
    np.testing.assert_allclose(
        weights(best.subModels[1][0]), RATES[0] * squares_step(X[~held], Y[~held]), rtol=1e-5
    )


def test_cross_validator_around_a_pipeline(
    table: DataFrame, written: list[str], tmp_path: Path
) -> None:
    est = regressor(featuresCol="both")
    pipeline = Pipeline(stages=[VectorAssembler(inputCols=["a", "b"], outputCol="both"), est])
    validator = cross_validator(pipeline, rate_grid(est), parallelism=2, collectSubModels=True)
    with reuse_data():
        best = validator.fit(table)
    assert best.avgMetrics == pytest.approx(expected_metrics(), rel=1e-5)
    assert len(written) == 3

    path = str(tmp_path / "cv")
    best.save(path)
    loaded = CrossValidatorModel.load(path)
    assert loaded.avgMetrics == best.avgMetrics
    assert len(loaded.subModels[0]) == 2
    np.testing.assert_array_equal(
        weights(loaded.bestModel.stages[-1]), weights(best.bestModel.stages[-1])
    )
    assert loaded.getEstimatorParamMaps()[1].popitem()[1] == RATES[1]
    assert loaded.getEstimator().getStages()[-1].getFeaturesCol() == "both"
    expected = [row.prediction for row in best.transform(table).orderBy("id").collect()]
    assert [r.prediction for r in loaded.transform(table).orderBy("id").collect()] == expected


def test_cross_validator_inside_a_pipeline(table: DataFrame, written: list[str]) -> None:
    est = regressor(featuresCol="both")
    stages = [
        VectorAssembler(inputCols=["a", "b"], outputCol="both"),
        cross_validator(est, rate_grid(est, RATES[:1])),
    ]
    model = Pipeline(stages=stages).fit(table)
    assert isinstance(model, PipelineModel)
    assert model.stages[-1].avgMetrics == pytest.approx(expected_metrics()[:1], rel=1e-5)
    assert model.transform(table).count() == ROWS
    assert len(written) == 3


def test_train_validation_split(table: DataFrame, written: list[str], tmp_path: Path) -> None:
    est = regressor()
    split = TrainValidationSplit(
        estimator=est,
        estimatorParamMaps=rate_grid(est),
        evaluator=RegressionEvaluator(metricName="mse"),
        trainRatio=0.6,
        seed=7,
        parallelism=2,
    )
    model = split.fit(table)
    assert len(model.validationMetrics) == 2 and np.isfinite(model.validationMetrics).all()
    assert len(written) == 2
    model.save(str(tmp_path / "split"))
    loaded = TrainValidationSplitModel.load(str(tmp_path / "split"))
    np.testing.assert_array_equal(weights(loaded.bestModel), weights(model.bestModel))


def test_a_grid_of_configs(table: DataFrame, written: list[str], tmp_path: Path) -> None:
    est = regressor().setParams(learningRate=0.01)
    grid = (
        ParamGridBuilder()
        .addGrid(est.loss, ["mse", "mae"])
        .addGrid(est.backend, ["local", {"name": "local"}])
        .build()
    )
    validator = cross_validator(est, grid)
    validator.save(str(tmp_path / "validator"))
    loaded = CrossValidator.load(str(tmp_path / "validator"))
    maps = [{p.name: v for p, v in m.items()} for m in loaded.getEstimatorParamMaps()]
    assert maps == [
        {"loss": loss, "backend": backend}
        for loss in ("mse", "mae")
        for backend in ("local", {"name": "local"})
    ]
    models = loaded.getEstimator().fit(table, loaded.getEstimatorParamMaps())
    sign = -X.T @ np.sign(0 - Y) / ROWS
    np.testing.assert_allclose(weights(models[3])[:, 0], 0.01 * sign, rtol=1e-5)
    assert len(written) == 1


def test_a_failing_cross_validation_leaves_nothing(table: DataFrame, written: list[str]) -> None:
    est = regressor(batchSize=2)
    validator = cross_validator(est, rate_grid(est, (0.01, 1e30)), parallelism=2)
    with pytest.raises(NonFiniteLossError, match="epoch 0, step 1"):
        validator.fit(table)
