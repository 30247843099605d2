"""The report of a fit and the Param stopWhen, with every backend that measures itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_dlobd import DLEstimator, DLModel
from spark_dlobd.errors import ConfigurationError, WorkerError
from spark_dlobd.estimators import recording
from spark_dlobd.report.limits import By
from spark_dlobd.report.schema import PARTS, FitReport, Measurements
from spark_dlobd.tracking.jsonl import JsonLinesTracker
from tests.spark.tiny import CLASSES, ROWS, X, Y, estimator, linear

if TYPE_CHECKING:
    from mlflow import MlflowClient

keras = pytest.importorskip("keras")

RATE = 0.01
EPOCHS = 6


def losses_by_hand() -> list[float]:
    """Mean squared error before each of `EPOCHS` updates with all rows."""
    kernel = np.zeros(2)
    found = []
    for _ in range(EPOCHS):
        rest = X @ kernel - Y
        found.append(float((rest**2).mean()))
        kernel = kernel - RATE * 2 / ROWS * X.T @ rest
    return found


LOSSES = losses_by_hand()
STOP = f"loss < {(LOSSES[2] + LOSSES[3]) / 2:.6g}"
"""Reached by the fourth epoch."""


@dataclass(frozen=True)
class Fitted:
    """One fit of two workers that `STOP` ended."""

    backend: str
    report: dict[str, Any]
    history: dict[str, list[float]]


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rows = [
        ([float(v) for v in x], float(y), int(k), i > 5)
        for i, (x, y, k) in enumerate(zip(X, Y, CLASSES, strict=True))
    ]
    return spark.createDataFrame(rows, ["features", "label", "k", "held"]).coalesce(2).cache()


@pytest.fixture(scope="module", params=["local", "horovod", "shuffle"])
def fitted(request: pytest.FixtureRequest, table: DataFrame) -> Fitted:
    backend = request.param
    if backend == "horovod":
        pytest.importorskip("horovod")
    settings = {"learningRate": RATE, "epochs": EPOCHS, "numTrainWorkers": 2, "stopWhen": STOP}
    model = estimator(linear(), backend=backend, **settings).fit(table)
    return Fitted(backend, model.report, model.history)


def test_all_workers_stop_after_the_epoch_that_reaches_the_target(fitted: Fitted) -> None:
    np.testing.assert_allclose(fitted.history["loss"], LOSSES[:4], rtol=1e-4)
    over_time = fitted.report["metrics_over_time"]["loss"]
    assert [epoch for epoch, _, _ in over_time] == [0, 1, 2, 3]
    np.testing.assert_allclose([value for _, _, value in over_time], LOSSES[:4], rtol=1e-4)
    assert fitted.report["target"] == STOP
    assert fitted.report["seconds_to_target"] == over_time[3][1]


def test_every_backend_has_the_same_report(fitted: Fitted) -> None:
    report = fitted.report
    assert set(Measurements.__annotations__) <= set(report)
    assert set(report) <= set(FitReport.__annotations__)
    assert json.loads(json.dumps(report)) == report
    for key in ("transport", "weights_hash", "plan", "rows", "fit_seconds", "trainable_weights"):
        assert key in report
    assert report["trainable_weights"] == 2
    assert report["warnings"] == []


def test_bytes_of_a_step_are_those_of_the_algorithm(fitted: Fitted) -> None:
    expected = {"local": 0.0, "horovod": 8.0, "shuffle": 8.0}  # 2 * 2 weights * 4 bytes / 2
    assert fitted.report["bytes_sent_per_step"] == expected[fitted.backend]


def test_seconds_and_rates(fitted: Fitted) -> None:
    report = fitted.report
    seconds = report["seconds"]
    assert {"prepare", "materialize", "start", "train", "other", "log"} <= set(seconds)
    assert all(value >= 0 for value in seconds.values())
    parts = sum(value for phase, value in seconds.items() if phase != "log")
    assert parts == pytest.approx(report["total_seconds"], abs=0.01)
    assert seconds["other"] < 0.5 * report["total_seconds"]
    assert report["seconds_to_target"] < report["total_seconds"]
    assert len(report["epoch_seconds"]) == 4 and report["epoch_rows"] == [8] * 4
    rates = [8 / each for each in report["epoch_seconds"]]
    assert report["rows_per_second"] == pytest.approx(rates, rel=0.01, abs=0.06)


def test_parts_of_the_time_add_up(fitted: Fitted) -> None:
    report = fitted.report
    for kind in ("training_shares", "shares"):
        shares = report[kind]
        assert set(shares) == set(PARTS)
        assert all(0 <= value <= 1 for value in shares.values())
        assert sum(shares.values()) == pytest.approx(1, abs=0.01)
    training = report["training_shares"]
    assert training["input"] > 0 and training["compute"] > 0
    assert (training["communication"] > 0) == (fitted.backend != "local")
    assert (training["spark"] > 0) == (fitted.backend == "shuffle")
    ranks = [rank["rank"] for rank in report["ranks"]]
    assert ranks == ([0] if fitted.backend == "local" else [0, 1])
    # eight rows say nothing: on a busy machine any of them may be the largest
    assert report["limit"]["by"] in get_args(By)
    assert report["limit"]["text"].endswith(".")


def test_every_rank_is_sampled(fitted: Fitted) -> None:
    sampled = fitted.report["utilization"]
    assert [each["rank"] for each in sampled] == ([0] if fitted.backend == "local" else [0, 1])
    for each in sampled:
        assert 1 <= len(each["seconds"]) <= 600
        assert 0 < each["seconds"][0] < fitted.report["total_seconds"] + 2
        assert {len(values) for name, values in each.items() if name != "rank"} == {
            len(each["seconds"])
        }
        assert min(each["rss_bytes"]) > 50e6


@contextmanager
def no_spark_job(spark: SparkSession) -> Iterator[None]:
    scheduler = spark.sparkContext._jsc.sc().dagScheduler()
    before = scheduler.numTotalJobs()
    yield
    assert scheduler.numTotalJobs() == before


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"stopWhen": "accuracy > 0.9"}, r"one of 'loss', 'mae'. Got 'accuracy > 0.9'"),
        ({"stopWhen": "val_loss < 1"}, r"'loss', 'mae'. Got .* set validationFraction or"),
        (
            {"stopWhen": "val_acc > 1", "validationIndicatorCol": "held"},
            r"one of 'loss', 'mae', 'val_loss', 'val_mae'. Got 'val_acc > 1'\.$",
        ),
    ],
)
def test_a_metric_that_is_not_there_is_found_before_any_job(
    spark: SparkSession, table: DataFrame, changed: dict[str, str], says: str
) -> None:
    wrong = estimator(linear(), metrics=["mae"], **changed)
    with no_spark_job(spark), pytest.raises(ConfigurationError, match=says):
        wrong.fit(table)


def test_metrics_of_a_classifier_can_be_the_target(table: DataFrame) -> None:
    settings = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], "labelCol": "k"}
    model = estimator(
        linear(3, "softmax"),
        **settings,
        epochs=5,
        validationIndicatorCol="held",
        stopWhen="val_accuracy >= 0",
    ).fit(table)
    assert len(model.history["val_accuracy"]) == 1
    assert model.report["accuracy"]["metric"] == "val_accuracy"


@keras.saving.register_keras_serializable("report")
class Halved(keras.Sequential):  # type: ignore[misc]
    """Logs only half of its loss."""

    def train_step(self, data: Any) -> Any:
        return {"halved": super().train_step(data)["loss"] / 2}


def test_names_of_a_custom_step_are_checked_when_they_are_known(table: DataFrame) -> None:
    net = Halved(linear().layers)
    net.build((None, 2))
    settings = {"learningRate": RATE, "epochs": EPOCHS}
    model = estimator(net, stopWhen=STOP.replace("loss", "halved"), **settings).fit(table)
    halves = [loss / 2 for loss in LOSSES]
    limit = float(STOP.split()[-1])
    expected = next(index for index, half in enumerate(halves) if half < limit) + 1
    assert len(model.history["halved"]) == expected
    with pytest.raises((WorkerError, ConfigurationError), match=r"of the training: 'halved'\. Got"):
        estimator(net, stopWhen="loss < 1", **settings).fit(table)


def test_stop_when_survives_saving(tmp_path: Path) -> None:
    estimator(linear(), stopWhen=STOP).save(str(tmp_path / "estimator"))
    assert DLEstimator.load(str(tmp_path / "estimator")).getStopWhen() == STOP


class Broken(keras.callbacks.Callback):  # type: ignore[misc]
    """Fails in its second epoch."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise ValueError("the callback of this test")


def test_a_fit_that_fails_leaves_what_was_measured(table: DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "fit.jsonl"
    settings = {"epochs": 3, "tracking": "mlflow", "tracker": JsonLinesTracker(path)}
    with pytest.raises(WorkerError, match="the callback of this test"):
        estimator(linear(), callbacks=[Broken()], **settings).fit(table)
    last = json.loads(path.read_text().splitlines()[-1])
    assert last["status"] == "FAILED"
    assert len(last["report"]["epoch_seconds"]) == 1
    assert last["report"]["limit"]["by"]


def test_a_report_that_fails_does_not_fail_the_fit(
    table: DataFrame, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the report of this test")

    monkeypatch.setattr(recording, "build_report", broken)
    with caplog.at_level(logging.ERROR, "spark_dlobd"):
        model = estimator(linear()).fit(table)
    assert model.report["backend"] == "local" and model.report["seconds"]["train"] > 0
    assert "the report of this test" in caplog.text


def test_a_loaded_model_shows_what_the_fitted_one_showed(table: DataFrame, tmp_path: Path) -> None:
    model = estimator(linear(), epochs=2).fit(table)
    model.save(str(tmp_path / "model"))
    loaded = DLModel.load(str(tmp_path / "model"))
    assert repr(loaded) == repr(model)
    assert "(Sequential, 2 weights), regression from 2 float" in repr(loaded)
    html = loaded._repr_html_()
    assert html.count("<svg") == 1 and model.report["limit"]["text"].split(".")[0] in html
    assert "2 weights" in estimator(linear())._repr_html_()


def test_mlflow_has_page_and_metrics(
    client: MlflowClient, table: DataFrame, tmp_path: Path
) -> None:
    model = estimator(
        linear(), tracking="mlflow", stopWhen=STOP, learningRate=RATE, epochs=EPOCHS
    ).fit(table)
    run = model.report["mlflow_run_id"]
    metrics = client.get_run(run).data.metrics
    found = {name.removeprefix("system/fit/"): value for name, value in metrics.items()}
    assert found["seconds_to_target"] == pytest.approx(model.report["seconds_to_target"])
    assert found["seconds"] == round(model.report["total_seconds"], 3)
    # what stands beside the learning curves on MLflow's page of metrics
    assert {name for name in metrics if not name.startswith("system/")} == {"loss", "step_loss"}
    params = client.get_run(run).data.params
    assert params["network.class"] == "Sequential" and params["network.weights"] == "2"
    assert "cacheDir" not in params
    page = Path(client.download_artifacts(run, "report.html", str(tmp_path))).read_text()
    assert "<h2>Metrics over time</h2>" in page
    logged = json.loads(
        Path(client.download_artifacts(run, "report.json", str(tmp_path))).read_text()
    )
    assert logged["report"]["limit"] == model.report["limit"]


def test_a_page_that_cannot_be_drawn_keeps_no_model_from_mlflow(
    client: MlflowClient, table: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spark_dlobd.tracking.mlflow import sink

    def broken(*_: object) -> str:
        raise RuntimeError("the page of this test")

    monkeypatch.setattr(sink, "report_page", broken)
    model = estimator(linear(), tracking="mlflow").fit(table)
    assert model.report["mlflow_model_id"]
    names = [file.path for file in client.list_artifacts(model.report["mlflow_run_id"])]
    assert "report.json" in names and "report.html" not in names
