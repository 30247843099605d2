"""One clear exception within 30 seconds of each fault, and nothing left behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from spark_dlobd import CollectiveConfig, DLEstimator, HorovodConfig
from spark_dlobd.errors import (
    NonFiniteLossError,
    ResourceError,
    TrainingError,
    TrainingTimeoutError,
    WorkerError,
    WorkerLostError,
    WorkerStalledError,
)
from tests.cluster import faults

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = [pytest.mark.usefixtures("nothing_left"), pytest.mark.timeout(120)]
BACKENDS: dict[str, Any] = {
    "gloo": HorovodConfig(),
    "mpi": HorovodConfig(controller="mpi"),
    "collective": CollectiveConfig(transport="ring"),
    "collective-mpi": CollectiveConfig(transport="mpi"),
}


def estimator(name: str, *callbacks: Any, **params: Any) -> DLEstimator:
    import keras

    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2, "softmax")]
    )
    settings = {
        "model": model,
        "loss": "sparse_categorical_crossentropy",
        "backend": BACKENDS[name],
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


@pytest.mark.parametrize("backend", BACKENDS)
def test_user_exception_on_one_rank(blobs: DataFrame, backend: str) -> None:
    error = fails_within(60, estimator(backend, faults.Raise(rank=1)), blobs, WorkerError)
    assert error.rank == 1
    assert error.phase.startswith("train epoch 1")
    assert "ZeroDivisionError: the user's own mistake" in str(error)
    assert "in act" in error.worker_traceback


@pytest.mark.parametrize("backend", BACKENDS)
def test_rank_killed(blobs: DataFrame, backend: str) -> None:
    error = fails_within(60, estimator(backend, faults.KillRank(rank=1)), blobs, WorkerLostError)
    assert error.rank == 1
    assert "SIGKILL" in str(error)
    assert error.phase.startswith("train epoch 1")


@pytest.mark.parametrize("backend", BACKENDS)
def test_executor_killed(blobs: DataFrame, backend: str) -> None:
    est = estimator(backend, faults.KillExecutor(rank=1))
    error = fails_within(60, est, blobs, WorkerLostError)
    assert error.rank == 1
    assert "executor" in str(error)


@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_not_finite(blobs: DataFrame, backend: str) -> None:
    est = estimator(backend, loss="mse", optimizer="sgd", learningRate=1e30, metrics=[])
    est.setModel(_linear())
    error = fails_within(60, est, blobs, NonFiniteLossError)
    assert "epoch 0, step" in str(error)
    assert error.rank in (0, 1)


def _linear() -> Any:
    import keras

    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])


def test_more_workers_than_slots(blobs: DataFrame) -> None:
    est = estimator("gloo", numTrainWorkers=3)
    error = fails_within(5, est, blobs, ResourceError)
    assert "numTrainWorkers=3" in str(error)
    assert "offers 2" in str(error)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cancelled_job_group(
    spark: SparkSession, blobs: DataFrame, tmp_path: Path, backend: str
) -> None:
    from pyspark import InheritableThread

    sign = tmp_path / "training"
    outcome: list[BaseException] = []

    def fit() -> None:
        spark.sparkContext.setJobGroup("the user's group", "a fit")
        try:
            estimator(backend, faults.Touch(str(sign)), epochs=50).fit(blobs)
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


@pytest.mark.parametrize("backend", [*BACKENDS, "parameter_server"])
def test_ctrl_c(tmp_path: Path, backend: str) -> None:
    sign = tmp_path / "training"
    program = [sys.executable, "-m", "tests.cluster.interrupted_fit", backend, str(sign)]
    root = Path(__file__).parents[2]
    driver = subprocess.Popen(
        program, cwd=root, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _wait_for(sign, 90)
        driver.send_signal(signal.SIGINT)
        _, printed = driver.communicate(timeout=30)
    finally:
        driver.kill()
    assert "KeyboardInterrupt" in printed
    assert driver.returncode != 0


def _wait_for(path: Path, seconds: float) -> None:
    event = threading.Event()
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear in {seconds} s"
        event.wait(0.1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rank_that_keeps_the_others_waiting(blobs: DataFrame, backend: str) -> None:
    config = replace(BACKENDS[backend], stall_timeout_s=3)
    est = estimator(backend, faults.Sleep(rank=1), backend=config)
    error = fails_within(60, est, blobs, WorkerStalledError)
    assert error.rank == 1
    assert error.phase == "train epoch 1, after step 2"
    assert "for 3 s in which rank 0 waited for it" in str(error)
    assert "stall_timeout_s=3" in str(error)
    told = str(error).partition("Python stacks of rank 0:")[2]
    assert "Python stacks of rank 1:" in told
    assert "in act\n" in told.partition("Python stacks of rank 1:")[2]


def test_a_slow_rank_is_named(blobs: DataFrame) -> None:
    est = estimator("collective", faults.Slow(rank=1, seconds=0.7), batchSize=80)
    (warning,) = est.fit(blobs).report["warnings"]
    assert warning.startswith(f"Rank 1 on {socket.gethostname()} (127.0.0.1) keeps the others")
    assert "in epoch 1 it needed" in warning
    assert "it loses most in computing" in warning


def test_a_taken_port_is_passed_over(blobs: DataFrame) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        est = estimator(
            "collective", backend=CollectiveConfig(transport="ring", port_range=(port, port + 20))
        )
        assert est.fit(blobs).report["transport"] == "ring: grpc over tcp"


def test_no_free_port(blobs: DataFrame) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        est = estimator(
            "collective", backend=CollectiveConfig(transport="ring", port_range=(port, port))
        )
        error = fails_within(40, est, blobs, WorkerError)
    assert f"No port is free for a rank on {socket.gethostname()}: tried {port} to" in str(error)


def test_ranks_that_do_not_meet_in_time(blobs: DataFrame) -> None:
    config = HorovodConfig(start_timeout_s=1)
    error = fails_within(40, estimator("gloo", backend=config), blobs, TrainingTimeoutError)
    assert "start_timeout_s" in str(error)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_cluster_trains_after_all_that(blobs: DataFrame, backend: str) -> None:
    model = estimator(backend, epochs=2).fit(blobs)
    assert model.report["weights_hash"]
    assert model.history["loss"][1] < model.history["loss"][0]
