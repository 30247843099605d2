"""The probe with real executor JVMs leaves nothing, whatever happens to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from spark_dlobd import DLEstimator
from spark_dlobd.cost import cluster
from spark_dlobd.errors import TrainingTimeoutError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = [pytest.mark.usefixtures("nothing_left"), pytest.mark.timeout(600)]


def test_explain_with_two_executors(blobs: DataFrame) -> None:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    found = DLEstimator(
        model=model,
        loss="sparse_categorical_crossentropy",
        numTrainWorkers=2,
        batchSize=20,
        tracking="none",
        verbose=0,
    ).explain(blobs)
    assert (found.cluster.slots, found.cluster.hosts, found.cluster.workers) == (2, 1, 2)
    assert found.cluster.bytes_per_s is not None and found.cluster.bytes_per_s > 1e5
    assert found.step.workers == found.step.workers_per_host == 2
    assert {one.backend for one in found.predictions} == {
        "collective",
        "horovod",
        "local",
        "parameter_server",
        "shuffle",
    }
    assert found.row_counts == (400, 0) and found.weights == 10


def test_a_probe_that_takes_too_long_is_ended(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_known", type(cluster._known)())
    with pytest.raises(TrainingTimeoutError, match="probe the network"):
        cluster.probe_cluster(spark, 2, timeout_s=0.01)
    # the slots are free again
    assert spark.sparkContext.parallelize(range(2), 2).sum() == 1
