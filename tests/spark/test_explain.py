"""`DLEstimator.explain` and the choice of `auto`, in a session with two slots."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dlobd import DLEstimator
from spark_dlobd.cost import cluster
from spark_dlobd.cost.explanation import Explanation
from spark_dlobd.errors import (
    ConfigurationError,
    DataError,
    ResourceError,
    WorkerError,
)
from tests.spark.tiny import CLASSES, X, Y, estimator, linear

keras = pytest.importorskip("keras")
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("spark-dlobd")] == []


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rows = [
        (i, Vectors.dense(x), float(y), int(k), i > 5)
        for i, (x, y, k) in enumerate(zip(X, Y, CLASSES, strict=True))
    ]
    return spark.createDataFrame(rows, ["id", "features", "y", "k", "held"]).coalesce(2).cache()


def jobs(spark: SparkSession) -> int:
    return int(spark.sparkContext._jsc.sc().dagScheduler().numTotalJobs())


@pytest.fixture(scope="module")
def explained(table: DataFrame) -> tuple[DLEstimator, Explanation]:
    est = estimator(
        linear(),
        labelCol="y",
        backend="horovod",
        numTrainWorkers=2,
        validationIndicatorCol="held",
        epochs=4,
        batchSize=4,
    )
    random.seed(7)
    np.random.seed(7)
    before = est.getModel().get_weights()[0], random.getstate(), np.random.get_state()[1][:5]
    found = est.explain(table)
    np.testing.assert_array_equal(est.getModel().get_weights()[0], before[0])
    np.testing.assert_array_equal(np.random.get_state()[1][:5], before[2])
    return est, found


def test_it_says_what_a_fit_has_to_do(explained: tuple[DLEstimator, Explanation]) -> None:
    found = explained[1]
    assert found.row_counts == (6, 2)
    assert (found.weights, found.variables, found.work.gradient_bytes) == (2, 1, 8)
    assert (found.input_shapes, found.output_shapes) == (((2,),), ((1,),))
    assert found.work.row_bytes == 12 and found.work.epochs == 4
    assert {one.workers for one in found.predictions} == {1, 2}
    horovod = found.prediction("horovod", 2)
    assert horovod is not None and horovod.steps_per_epoch == 2 and horovod.bytes_per_step == 8
    assert (found.cluster.slots, found.cluster.hosts, found.cluster.workers) == (2, 1, 2)
    assert found.cluster.latency_s is not None and 0 < found.cluster.latency_s < 1
    assert found.step.workers == 2 and found.step.rows == 2 and found.step.full_rows == 4
    assert 0 < found.step.seconds < 5 and 0 < found.step.driver_seconds < 5
    assert found.step.memory_bytes > 50 * 10**6
    assert all(one.fit_s > 0 and one.epoch_s > 0 for one in found.predictions)


def test_it_prints_a_table_and_a_reason(
    explained: tuple[DLEstimator, Explanation], capsys: pytest.CaptureFixture[str]
) -> None:
    found = explained[1]
    print(found)
    said = capsys.readouterr().out
    assert "6 for training, 2 for validation" in said
    assert "horovod, gloo" in said and "parameter_server" in said and "s/epoch" in said
    assert f"> {found.recommended.label}" in said
    assert "Recommended: " in said
    assert Explanation.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_application_is_probed_once(
    spark: SparkSession, explained: tuple[DLEstimator, Explanation]
) -> None:
    before = jobs(spark)
    assert cluster.probe_cluster(spark, 2) == explained[1].cluster
    assert jobs(spark) == before


def test_nothing_stays_in_sparks_python_workers(
    spark: SparkSession, explained: tuple[DLEstimator, Explanation]
) -> None:
    def look(_: Any) -> Iterator[tuple[bool, int]]:
        import sys

        import psutil

        children = psutil.Process().children(recursive=True)
        named = [c for c in children if "spark_dlobd.cost" in " ".join(c.cmdline())]
        yield "spark_dlobd.cost.step_timer" in sys.modules, len(named)

    found = spark.sparkContext.parallelize(range(2), 2).mapPartitions(look).collect()
    assert found == [(False, 0)] * 2


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"numTrainWorkers": 3}, ResourceError, "numTrainWorkers=3 needs 3 slots"),
        ({"labelCol": "nothing"}, ConfigurationError, "nothing"),
        ({"backend": "parameter_server", "batchSize": 0}, ConfigurationError, "batchSize"),
        ({"batchSize": 1, "backend": "local"}, ConfigurationError, "batchSize must be at least"),
    ],
)
def test_what_fit_refuses_is_refused(
    table: DataFrame, params: dict[str, Any], error: type[Exception], message: str
) -> None:
    settings = {"labelCol": "y", "backend": "horovod", "numTrainWorkers": 2, **params}
    with pytest.raises(error, match=message):
        estimator(linear(), **settings).explain(table)


@pytest.mark.parametrize("workers", [0, True, "2", [1, 0], []])
def test_numbers_of_workers_are_checked(table: DataFrame, workers: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"workers must be an int of at least 1"):
        estimator(linear(), labelCol="y").explain(table, workers)


def test_rows_are_looked_at(table: DataFrame) -> None:
    with pytest.raises(DataError, match="has no rows"):
        estimator(linear(), labelCol="y").explain(table.where("id > 100"))
    holes = table.withColumn("y", F.expr("if(id < 2, null, y)"))
    with pytest.raises(DataError, match=r"'y' \(label\): 2 null"):
        estimator(linear(), labelCol="y").explain(holes)


@keras.saving.register_keras_serializable("test_explain")
class Breaks(keras.layers.Layer):  # type: ignore[misc]
    """Cannot be trained."""

    def call(self, rows: Any, training: bool = False) -> Any:
        if training:
            raise ZeroDivisionError("the user's own mistake")
        return rows


@pytest.mark.usefixtures("explained")
def test_a_model_that_cannot_be_trained_is_the_users_error(table: DataFrame) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1), Breaks()])
    with pytest.raises(WorkerError, match="the user's own mistake") as caught:
        estimator(model, labelCol="y").explain(table)
    assert caught.value.phase == "probe steps"
    assert "ZeroDivisionError" in caught.value.worker_traceback


def test_auto_takes_horovod_where_it_is_installed_and_measures_nothing(
    spark: SparkSession, table: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("horovod")
    monkeypatch.setattr(cluster, "_known", type(cluster._known)())
    report = estimator(linear(), labelCol="y", backend="auto", numTrainWorkers=2).fit(table).report
    assert report["backend"] == "horovod"
    assert report["backend_reason"] == "auto: several workers, and Horovod is installed"
    assert not cluster._known
