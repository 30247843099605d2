"""Every fault of the shuffle backend: exact recovery, or one clear error in bounded time."""

from __future__ import annotations

import functools
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from spark_dlobd import DLEstimator, ShuffleConfig
from spark_dlobd.errors import (
    NonFiniteLossError,
    TrainingError,
    TrainingTimeoutError,
    WorkerError,
    WorkerLostError,
)
from tests.cluster import faults, shuffle_faults
from tests.cluster.shuffle_faults import Fault

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from spark_dlobd import DLModel

pytestmark = [
    pytest.mark.usefixtures("nothing_left", "clean_executors"),
    pytest.mark.timeout(180),
]
SECOND_JOB = 7
"""A step in the middle of the second of the two jobs of an epoch."""


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    """400 rows of two classes, in the same order also when an executor is lost."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    features = rng.normal(size=(400, 4)) + 2.0 * labels[:, None]
    data = [(f.tolist(), int(y)) for f, y in zip(features, labels, strict=True)]
    return spark.createDataFrame(data, "features array<double>, label int").coalesce(1)


@pytest.fixture
def clean_executors(spark: SparkSession, rows: DataFrame) -> Iterator[None]:
    """Half a minute after the test no slice and no shuffle file is left on an executor."""
    before = shuffle_faults.files_of_fits(shuffle_faults.executor_folders(spark))
    yield
    left = shuffle_faults.wait_until_clean(spark, before, timeout_s=30.0)
    assert not left


def estimator(layer: Fault | None = None, update: Fault | None = None, **params: Any) -> Any:
    import keras

    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            shuffle_faults.FaultyLayer(None if layer is None else layer.config),
            keras.layers.Dense(2, "softmax"),
        ]
    )
    optimizer = shuffle_faults.FaultyAdam(
        None if update is None else update.config, global_clipnorm=params.pop("clipnorm", None)
    )
    config = ShuffleConfig(**{"iterations_per_job": 5, **params.pop("config", {})})
    settings: dict[str, Any] = {
        "model": model,
        "loss": "sparse_categorical_crossentropy",
        "optimizer": optimizer,
        "metrics": ["accuracy"],
        "backend": config,
        "numTrainWorkers": 2,
        "batchSize": 40,
        "epochs": 2,
        "seed": 4,
        "tracking": "none",
        "verbose": 0,
    }
    return DLEstimator(**{**settings, **params})


@pytest.fixture(scope="module")
def undisturbed(rows: DataFrame) -> Callable[[str], DLModel]:
    """Fit that nothing happens to, by where its slices wait."""

    @functools.cache
    def fit(state: str) -> DLModel:
        model = estimator(config={"state": state}).fit(rows)
        assert model.report["restarts"] == 0
        return model

    return fit


def assert_same(model: DLModel, reference: DLModel) -> None:
    """To the last bit."""
    assert model.history == reference.history
    assert model.report["weights_hash"] == reference.report["weights_hash"]


def fails(estimator: DLEstimator, df: DataFrame, error: type, since: Path | None = None) -> Any:
    """The error of a fit: 30 seconds after the fault wrote `since`, else 90 after its start."""
    started = time.time()
    with pytest.raises(error) as caught:
        estimator.fit(df)
    ended = time.time()
    if since is None:
        assert ended - started < 90
    else:
        assert ended - since.stat().st_mtime < 30
    return caught.value


def happened(file: Path) -> int:
    return len(file.read_text().split())


def test_both_places_of_state_give_the_same(undisturbed: Callable[[str], DLModel]) -> None:
    assert_same(undisturbed("host"), undisturbed("shuffle"))


@pytest.mark.parametrize("kind", ["kill_worker", "kill_executor", "lose_shuffle_files"])
@pytest.mark.parametrize(
    ("stage", "state"), [("layer", "host"), ("update", "host"), ("update", "shuffle")]
)
def test_recovers_exactly(
    rows: DataFrame,
    undisturbed: Callable[[str], DLModel],
    tmp_path: Path,
    state: str,
    kind: str,
    stage: str,
) -> None:
    file = tmp_path / "happened"
    fault = Fault(kind, rank=1, step=SECOND_JOB, file=str(file))
    model = estimator(**{stage: fault}, config={"state": state}).fit(rows)
    assert happened(file) == 1
    assert model.report["repeats_for_lost_state"] <= (state == "host")
    assert_same(model, undisturbed(state))


@pytest.mark.parametrize(
    "options",
    [
        {"config": {"sync_every": 2}},
        {"config": {"wire": "bf16", "error_feedback": True}},
        {"clipnorm": 0.1},
    ],
    ids=["local steps", "error feedback", "global clipnorm"],
)
def test_recovers_exactly_with(rows: DataFrame, tmp_path: Path, options: dict[str, Any]) -> None:
    file = tmp_path / "happened"
    # with two local steps, stages begin at even ones
    fault = Fault("lose_shuffle_files", rank=1, step=8, file=str(file))
    reference = estimator(**options).fit(rows)
    model = estimator(layer=fault, **options).fit(rows)
    assert happened(file) == 1
    assert_same(model, reference)


def test_slices_lost_with_their_files(
    rows: DataFrame, undisturbed: Callable[[str], DLModel], tmp_path: Path
) -> None:
    file = tmp_path / "happened"
    fault = Fault("lose_slices", rank=1, step=SECOND_JOB, file=str(file))
    model = estimator(update=fault, config={"state": "host", "max_restarts": 0}).fit(rows)
    assert happened(file) == 1
    assert model.report["repeats_for_lost_state"] == 1
    assert "Slice 1 as it was before step 7 of epoch 0" in model.report["warnings"][0]
    assert_same(model, undisturbed("host"))


def test_job_that_spark_gave_up_is_run_again(
    rows: DataFrame, undisturbed: Callable[[str], DLModel], tmp_path: Path
) -> None:
    file = tmp_path / "happened"
    # Spark tries a task four times
    fault = Fault("kill_worker", rank=1, step=SECOND_JOB, file=str(file), times=4)
    model = estimator(layer=fault, config={"max_restarts": 1}).fit(rows)
    assert happened(file) == 4
    assert model.report["restarts"] == 1
    assert "steps 5 to 9 is run again" in model.report["warnings"][0]
    assert_same(model, undisturbed("host"))


def test_restarts_used_up(rows: DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "happened"
    fault = Fault("kill_worker", rank=1, step=2, file=str(file), times=100)
    est = estimator(layer=fault, config={"max_restarts": 0})
    error = fails(est, rows, WorkerLostError, since=file)
    assert happened(file) == 4
    assert error.rank == 1
    assert error.phase == "train epoch 0"
    first = str(error).splitlines()[0]
    assert "The Python worker was killed again and again, often for memory" in first
    assert "max_restarts=0 of ShuffleConfig are used up" in first
    assert len(str(error)) < 5000


@pytest.mark.parametrize(
    ("stage", "phase"), [("layer", "train epoch 0 step 2"), ("update", "update epoch 0 step 2")]
)
def test_user_error_is_told_once(
    rows: DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture, stage: str, phase: str
) -> None:
    file = tmp_path / "happened"
    fault = Fault("raise_error", rank=1, step=2, file=str(file), times=100)
    error = fails(estimator(**{stage: fault}), rows, WorkerError, since=file)
    assert happened(file) == 1
    assert (error.rank, error.phase) == (1, phase)
    assert error.host
    assert "ZeroDivisionError: the user's own mistake" in error.message
    assert "in raise_error" in str(error)
    assert not caplog.records


def test_user_error_on_every_rank(
    rows: DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "happened"
    fault = Fault("raise_error", rank=-1, step=2, file=str(file), times=100)
    error = fails(estimator(layer=fault), rows, WorkerError, since=file)
    assert "ZeroDivisionError: the user's own mistake" in error.message
    # the second failure is not taken for one of the job that lets the workers go
    assert not caplog.records


def test_gradient_that_does_not_fit_on_the_wire(rows: DataFrame) -> None:
    config = {"wire": "fp16"}
    est = estimator(optimizer="sgd", learningRate=1e4, config=config)
    error = fails(est, rows, WorkerError)
    assert "does not fit into fp16" in error.message
    assert "epoch 0 step" in error.phase


def test_loss_not_finite(rows: DataFrame) -> None:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    est = estimator(model=model, loss="mse", optimizer="sgd", learningRate=1e30, metrics=[])
    error = fails(est, rows, NonFiniteLossError)
    assert error.rank in (0, 1)
    assert re.search(r"the loss became (inf|nan) in epoch 0, step [1-9]", str(error))


def test_callback_that_raises(rows: DataFrame) -> None:
    import keras

    class Wrong(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise ZeroDivisionError("the callback's mistake")

    error = fails(estimator(callbacks=[Wrong()]), rows, WorkerError)
    assert error.host == "the driver"
    assert error.phase == "end of epoch 0"
    assert "ZeroDivisionError: the callback's mistake" in error.message
    assert "in on_epoch_end" in error.worker_traceback


def test_model_that_only_the_driver_can_build(rows: DataFrame) -> None:
    import keras

    model = keras.Sequential(
        [keras.Input((4,)), shuffle_faults.DriverOnly(), keras.layers.Dense(2, "softmax")]
    )
    error = fails(estimator(model=model), rows, WorkerError)
    assert error.phase == "build model"
    assert error.rank in (0, 1)
    assert "/opt/vocabulary.txt is not on this host" in error.message


def test_task_that_hangs(rows: DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "happened"
    fault = Fault("hang", rank=1, step=2, file=str(file))
    est = estimator(layer=fault, config={"progress_timeout_s": 6})
    error = fails(est, rows, TrainingTimeoutError, since=file)
    assert "epoch 1 of 2, steps 0 to 4" in str(error)
    assert "progress_timeout_s" in str(error)


def test_cancelled_job_group(spark: SparkSession, rows: DataFrame, tmp_path: Path) -> None:
    from pyspark import InheritableThread

    sign = tmp_path / "training"
    outcome: list[BaseException] = []

    def fit() -> None:
        spark.sparkContext.setJobGroup("the user's group", "a fit")
        try:
            estimator(callbacks=[faults.Touch(str(sign))], epochs=50).fit(rows)
        except BaseException as error:
            outcome.append(error)

    thread = InheritableThread(target=fit)
    thread.start()
    wait_for(sign, 60)
    # the driver is in a callback most of the time: cancel until a job was there
    deadline = time.monotonic() + 30
    while thread.is_alive() and time.monotonic() < deadline:
        spark.sparkContext.cancelJobGroup("the user's group")
        thread.join(timeout=0.2)
    assert not thread.is_alive()
    assert isinstance(outcome[0], TrainingError)
    assert "cancelled" in str(outcome[0])


def test_ctrl_c(tmp_path: Path) -> None:
    sign = tmp_path / "training"
    program = [sys.executable, "-m", "tests.cluster.interrupted_fit", "shuffle", str(sign)]
    root = Path(__file__).parents[2]
    driver = subprocess.Popen(
        program, cwd=root, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_for(sign, 90)
        driver.send_signal(signal.SIGINT)
        _, printed = driver.communicate(timeout=30)
    finally:
        driver.kill()
    assert "KeyboardInterrupt" in printed
    assert driver.returncode != 0


def wait_for(path: Path, seconds: float) -> None:
    event = threading.Event()
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear in {seconds} s"
        event.wait(0.1)


def test_the_cluster_trains_after_all_that(
    rows: DataFrame, undisturbed: Callable[[str], DLModel]
) -> None:
    model = estimator().fit(rows)
    assert model.report["restarts"] == 0
    assert_same(model, undisturbed("host"))
