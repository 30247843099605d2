"""Transformations of training batches in a whole fit."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from spark_dlobd.errors import ConfigurationError, WorkerError
from tests.spark.tiny import ROWS, X, Y, estimator, linear, squares_step, weights

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rows = [(x.tolist(), float(y), False) for x, y in zip(X, Y, strict=True)]
    rows += [(x.tolist(), float(y), True) for x, y in zip(X, Y, strict=True)]
    return spark.createDataFrame(rows, "features array<double>, label double, held boolean").cache()


def halved(x: Any, y: Any) -> Any:
    return x / 2, y + 1


@pytest.mark.parametrize("workers", [1, 2])
def test_only_rows_that_train_are_changed(table: DataFrame, workers: int) -> None:
    settings: dict[str, Any] = {"validationIndicatorCol": "held", "numTrainWorkers": workers}
    model = estimator(linear(), transformation=halved, **settings).fit(table)
    kernel = squares_step(X / 2, Y + 1)
    np.testing.assert_allclose(weights(model), kernel, rtol=1e-5)
    plain = np.mean((X @ kernel - Y[:, None]) ** 2)
    assert model.history["val_loss"][0] == pytest.approx(plain, rel=1e-5)
    scored = model.transform(table.filter("held")).toPandas()
    np.testing.assert_allclose(scored.prediction, (X @ kernel)[:, 0], rtol=1e-5)


def test_weights_of_rows_stay(spark: SparkSession) -> None:
    rows = [(x.tolist(), float(y), float(i)) for i, (x, y) in enumerate(zip(X, Y, strict=True))]
    df = spark.createDataFrame(rows, "features array<double>, label double, w double")
    model = estimator(linear(), transformation=halved, weightCol="w").fit(df)
    kernel = squares_step(X / 2, Y + 1, np.arange(ROWS))
    np.testing.assert_allclose(weights(model), kernel, rtol=1e-5)


def test_a_fit_repeats_and_epochs_differ(table: DataFrame) -> None:
    seen: list[float] = []

    def noisy(x: Any, seed: Any) -> Any:
        seen.append(float(np.random.default_rng(seed).normal()))
        return np.asarray(x + 0 * x[:1].copy())

    def fit() -> list[float]:
        seen.clear()
        estimator(linear(), transformation=noisy, epochs=3).fit(table)
        return seen[1:]  # the first was the driver's trial

    first = fit()
    assert len(set(first)) == 6  # two steps of three epochs
    assert fit() == first


def test_numpy_is_told_in_the_report(table: DataFrame) -> None:
    model = estimator(linear(), transformation=lambda x: np.sort(x).copy()).fit(table)
    assert model.report["transformation"] == {"name": "<lambda>", "traced": False}


def test_numbers_that_do_not_repeat_are_warned_of(
    table: DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    def noisy(x: Any) -> Any:
        return x + tf.random.normal(tf.shape(x))

    model = estimator(linear(), transformation=noisy).fit(table)
    assert "'noisy' draws random numbers that do not follow" in caplog.text
    assert any("tf.random.stateless_" in text for text in model.report["warnings"])


def test_its_own_error_comes_back(table: DataFrame) -> None:
    def broken(x: Any) -> Any:
        if len(np.asarray(x)) > 2:  # more than the trial's rows
            raise RuntimeError("no such effect")
        return x

    with pytest.raises(WorkerError, match=r"Rank 0 .* RuntimeError: no such effect\n"):
        estimator(linear(), transformation=broken).fit(table)


def test_what_cannot_travel_is_found_before_any_job(table: DataFrame) -> None:
    lock = threading.Lock()

    def locked(x: Any) -> Any:
        with lock:
            return x

    with pytest.raises(ConfigurationError, match="'locked' must be picklable"):
        estimator(linear(), transformation=locked).fit(table)


def test_a_wrong_shape_is_found_by_the_schema(table: DataFrame) -> None:
    stage = estimator(linear(), transformation=lambda x: x[:, :1])
    with pytest.raises(ConfigurationError, match="must give back what it takes"):
        stage.transformSchema(table.schema)


def test_it_is_a_setting_like_others() -> None:
    stage = estimator(linear()).setTransformation(halved)
    assert stage.copy().transformation is halved
    assert stage.setParams(transformation=None).transformation is None
    with pytest.raises(ConfigurationError, match="transformation must be a function"):
        stage.transformation = 3


def test_explain_times_it(table: DataFrame) -> None:
    import time

    def slow(x: Any) -> Any:
        time.sleep(0.05)
        return np.asarray(x)

    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    net = keras.Sequential([keras.Input((2,)), layer])
    explanation = estimator(net, transformation=slow).explain(table, workers=1)
    assert explanation.step.seconds > 0.045
