"""One clear outcome for each fault of parameter-server training, and nothing left behind."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from spark_dlobd import DLEstimator, ParameterServerConfig
from spark_dlobd.errors import (
    NonFiniteLossError,
    ResourceError,
    TrainingError,
    TrainingTimeoutError,
    WorkerError,
    WorkerLostError,
)
from tests.cluster import server_faults as faults

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

cloudpickle.register_pickle_by_value(faults)
pytestmark = [pytest.mark.usefixtures("nothing_left"), pytest.mark.timeout(150)]


def estimator(*callbacks: Any, config: Any = None, **params: Any) -> DLEstimator:
    import keras

    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2, "softmax")]
    )
    settings = {
        "model": model,
        "loss": "sparse_categorical_crossentropy",
        "backend": config or ParameterServerConfig(steps_per_call=1),
        "numTrainWorkers": 2,
        "batchSize": 20,
        "epochs": 3,
        "tracking": "none",
        "verbose": 0,
        "callbacks": callbacks,
    }
    return DLEstimator(**{**settings, **params})


def fails_within(seconds: float, estimator: DLEstimator, df: DataFrame, error: type) -> Any:
    started = time.monotonic()
    with pytest.raises(error) as caught:
        estimator.fit(df)
    assert time.monotonic() - started < seconds
    return caught.value


def once(tmp_path: Path, action: Any, *arguments: Any) -> faults.Once:
    return faults.Once(str(tmp_path / "done"), action, *arguments)


def test_exception_in_a_callback(blobs: DataFrame, tmp_path: Path) -> None:
    error = fails_within(60, estimator(once(tmp_path, faults.fail)), blobs, WorkerError)
    assert error.phase.startswith("train epoch 1")
    assert "ZeroDivisionError: the user's own mistake" in str(error)
    assert "in fail" in error.worker_traceback


def test_a_killed_worker_comes_back_and_its_chunk_is_done_again(
    blobs: DataFrame, tmp_path: Path
) -> None:
    model = estimator(once(tmp_path, faults.kill, "worker 1"), epochs=4).fit(blobs)
    assert model.report["worker_restarts"] == 1
    assert len(model.history["loss"]) == 4
    assert sum(model.report["rows_by_worker"]) == 4 * 400
    assert model.history["loss"][-1] < model.history["loss"][0]


def test_a_worker_killed_too_often_ends_the_fit(blobs: DataFrame, tmp_path: Path) -> None:
    config = ParameterServerConfig(steps_per_call=1, max_worker_restarts=0)
    est = estimator(once(tmp_path, faults.kill, "worker 1"), config=config)
    error = fails_within(60, est, blobs, WorkerLostError)
    assert error.rank == 1
    assert "worker 1: the process was killed by signal 9 (SIGKILL)" in str(error)


def test_a_killed_server_ends_the_fit(blobs: DataFrame, tmp_path: Path) -> None:
    est = estimator(once(tmp_path, faults.kill, "server 0"))
    error = fails_within(60, est, blobs, WorkerLostError)
    assert "parameter server 0: the process was killed by signal 9 (SIGKILL)" in str(error)


@pytest.mark.parametrize("victim", ["server 0", "coordinator 0"])
def test_a_fit_starts_again_from_the_last_epoch(
    blobs: DataFrame, tmp_path: Path, victim: str
) -> None:
    config = ParameterServerConfig(steps_per_call=1, max_restarts=1)
    model = estimator(once(tmp_path, faults.kill, victim), config=config).fit(blobs)
    assert len(model.history["loss"]) == 3
    # only the second and third epoch are trained after the restart
    assert sum(model.report["rows_by_worker"]) == 2 * 400
    assert [text for text in model.report["warnings"] if "Starting again" in text]


def test_a_killed_coordinator_ends_the_fit(blobs: DataFrame, tmp_path: Path) -> None:
    est = estimator(once(tmp_path, faults.kill, "coordinator 0"))
    error = fails_within(60, est, blobs, WorkerLostError)
    assert "coordinator: the process was killed by signal 9 (SIGKILL)" in str(error)
    assert error.rank == 0


def test_executor_killed(blobs: DataFrame, tmp_path: Path) -> None:
    est = estimator(once(tmp_path, faults.kill_executor))
    error = fails_within(90, est, blobs, WorkerLostError)
    assert "executor" in str(error)


def test_loss_not_finite(blobs: DataFrame) -> None:
    import keras

    est = estimator(loss="mse", optimizer="sgd", learningRate=1e30, metrics=[])
    est.setModel(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
    error = fails_within(60, est, blobs, NonFiniteLossError)
    assert "epoch 0, step" in str(error)
    assert f"computed by worker {error.rank}" in str(error)


def test_processes_that_do_not_start_in_time(blobs: DataFrame) -> None:
    config = ParameterServerConfig(start_timeout_s=1)
    error = fails_within(60, estimator(config=config), blobs, TrainingTimeoutError)
    assert "start_timeout_s=1" in str(error)


def test_a_taken_port_is_passed_over(blobs: DataFrame) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        first = min(port, 65000)
        config = ParameterServerConfig(port_range=(first, first + 40))
        model = estimator(config=config, epochs=1).fit(blobs)
    assert model.report["rows_per_epoch"] == 400


def test_no_free_port(blobs: DataFrame) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = ParameterServerConfig(port_range=(port, port))
        error = fails_within(60, estimator(config=config), blobs, WorkerError)
    assert "No port is free for" in str(error)
    assert "port_range" in str(error)


def test_a_callback_stops_within_an_epoch(blobs: DataFrame) -> None:
    model = estimator(faults.StopAt(), epochs=5).fit(blobs)
    assert len(model.history["loss"]) == 2
    # 20 steps an epoch; what had been scheduled is finished, the rest left out
    assert 400 < sum(model.report["rows_by_worker"]) < 700


def test_a_slow_worker_takes_fewer_chunks(blobs: DataFrame) -> None:
    model = estimator(faults.SlowWorker(), epochs=5).fit(blobs)
    fast, slow = model.report["rows_by_worker"]
    assert fast + slow == 5 * 400
    assert fast > 1.2 * slow
    # what the other applies while this one is stopped within a step
    assert model.report["staleness"]["max"] >= 1
    assert model.report["staleness"]["mean"] > 0


def test_more_workers_than_slots(blobs: DataFrame) -> None:
    error = fails_within(5, estimator(numTrainWorkers=3), blobs, ResourceError)
    assert "offers 2" in str(error)


def test_cancelled_job(spark: Any, blobs: DataFrame, tmp_path: Path) -> None:
    from pyspark import InheritableThread

    from tests.cluster import faults as others
    from tests.cluster.test_faults import _wait_for

    sign = tmp_path / "training"
    outcome: list[BaseException] = []

    def fit() -> None:
        spark.sparkContext.setJobGroup("the user's group", "a fit")
        try:
            estimator(others.Touch(str(sign)), epochs=50).fit(blobs)
        except BaseException as error:
            outcome.append(error)

    thread = InheritableThread(target=fit)
    thread.start()
    _wait_for(sign, 60)
    spark.sparkContext.cancelJobGroup("the user's group")
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert isinstance(outcome[0], TrainingError)
    assert "cancelled" in str(outcome[0])


def test_the_cluster_trains_after_all_that(blobs: DataFrame) -> None:
    model = estimator(epochs=2).fit(blobs)
    assert model.history["loss"][1] < model.history["loss"][0]
