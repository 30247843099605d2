"""MlflowTracker against a real MLflow server with an SQLite store."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from spark_dlobd.job.columns import ColumnSpec, TensorColumn
from spark_dlobd.job.dataset import DatasetRef, RowGroup
from spark_dlobd.tracking import MlflowTracker, Reporter, log_pipeline_model
from tests.spark.mlflow_server import wait_for

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from pyspark.sql import SparkSession

mlflow = pytest.importorskip("mlflow")

TAGS = {"spark_dlobd.run_id": "fit1", "backend": "local", "backend.reason": "one worker"}


def reporter(*trackers: Any, epochs: int = 2) -> Reporter:
    return Reporter(epochs=epochs, steps_per_epoch=3, batch_size=8, trackers=trackers, verbose=0)


def fit(told: Reporter, model: Any = None, epochs: int = 2, **params: Any) -> None:
    """Tell what a fit of `epochs` with three steps each would tell."""
    told.start({"batchSize": 8, **params}, TAGS)
    for epoch in range(epochs):
        told.steps([(epoch, step, {"loss": 1.0 / (1 + epoch)}) for step in range(3)])
        told.epoch(epoch, {"loss": 1.0 / (1 + epoch), "val_loss": 1.5 / (1 + epoch)})
    told.finish("FINISHED", {"seconds": {"train": 1.5}}, model)


def series(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))


def nothing_left(folder: Path) -> bool:
    return list(folder.glob("spark_dlobd-metrics-*")) == []


@pytest.fixture(scope="module")
def model() -> Any:
    import keras

    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])


def test_metrics_are_visible_while_the_run_goes_on(client: MlflowClient, tmp_path: Path) -> None:
    tracker = MlflowTracker()
    told = reporter(tracker)
    told.start({"batchSize": 8}, TAGS)
    told.step(0, 0, {"loss": 0.75})
    run_id = wait_for(lambda: tracker.run_id, "a run")
    wait_for(lambda: "step_loss" in client.get_run(run_id).data.metrics, "the first metric")
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.metrics["step_loss"] == 0.75
    told.epoch(0, {"loss": 0.5})
    wait_for(lambda: client.get_run(run_id).data.metrics.get("loss") == 0.5, "the epoch metric")
    told.finish("FINISHED", {})
    assert client.get_run(run_id).info.status == "FINISHED"
    assert nothing_left(tmp_path)


def test_own_run_holds_everything_and_is_ended(client: MlflowClient, tmp_path: Path) -> None:
    tracker = MlflowTracker(run_name="mine")
    told = reporter(tracker)
    long = "x" * 7000
    fit(told, note=long, stages=[1, {"a": None}], cacheDir=None)
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "mine")
    assert run.info.end_time >= run.info.start_time
    assert series(client, tracker.run_id, "step_loss") == [
        (0, 1.0), (1, 1.0), (2, 1.0), (3, 0.5), (4, 0.5), (5, 0.5)
    ]  # fmt: skip
    assert series(client, tracker.run_id, "val_loss") == [(0, 1.5), (1, 0.75)]
    params = run.data.params
    assert params["batchSize"] == "8"
    assert params["note"] == "x" * 6000
    assert params["stages"] == '[1, {"a": null}]'
    tags = run.data.tags
    assert tags["backend.reason"] == "one worker"
    assert not [name for name in tags if name.startswith("system.")]
    assert tags["spark_dlobd.status"] == "FINISHED"
    full = mlflow.artifacts.load_dict(f"runs:/{tracker.run_id}/params.json")
    assert (full["note"], full["cacheDir"]) == (long, None)
    assert "cacheDir" not in params
    system = mlflow.artifacts.load_dict(f"runs:/{tracker.run_id}/system.json")
    assert system["pyspark"].startswith("4.") and system["cores"] >= 1
    report = mlflow.artifacts.load_dict(f"runs:/{tracker.run_id}/report.json")
    assert report["report"] == {"seconds": {"train": 1.5}}
    assert report["history"]["loss"] == [1.0, 0.5]
    curves = client.download_artifacts(tracker.run_id, "learning_curves.png", str(tmp_path))
    assert Path(curves).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert nothing_left(tmp_path)
    assert mlflow.active_run() is None


WHOLE: dict[str, Any] = {
    "backend": "shuffle",
    "workers": 2,
    "total_seconds": 12.34,
    "epoch_seconds": [1.0, 1.0],
    "metrics_over_time": {"loss": [[0, 1.0, 1.0], [1, 2.0, 0.5]]},
    "rows_per_second": [],
    "seconds": {"train": 2.0},
    "accuracy": {"metric": None, "seconds": {}},
    "limit": {"by": "compute", "text": "Compute limits this fit."},
    "system": {},
    "warnings": [],
}
"""As much of a report as its page and description are made of."""


def test_a_run_of_ours_is_named_and_described(client: MlflowClient) -> None:
    tracker = MlflowTracker()
    told = reporter(tracker)
    network = {"name": "lenet", "class": "Sequential", "weights": 431080, "layers": ["Dense 10"]}
    told.start({"network": network, "numTrainWorkers": 2}, TAGS)
    run_id = wait_for(lambda: tracker.run_id, "a run")
    assert client.get_run(run_id).info.run_name.startswith("lenet, local, 2 workers, 20")
    told.finish("FINISHED", {**WHOLE, "network": network})
    run = client.get_run(run_id)
    assert run.info.run_name.startswith("lenet, local, 2 workers, 20")
    assert run.data.tags["mlflow.note.content"] == (
        "**loss 0.5**; 2 epochs, finished after 12.3 s.\n\n"
        "lenet (Sequential, 431,080 weights), backend shuffle, 2 workers.\n\n"
        "Compute limits this fit.\n\n"
        "The whole report is `report.html` among the artifacts."
    )
    assert run.data.params["network.weights"] == "431080"
    assert run.data.params["network.layers"] == "Dense 10"


def test_name_and_description_that_the_user_gave_stay(client: MlflowClient) -> None:
    tracker, named = MlflowTracker(), MlflowTracker(run_name="named")
    with mlflow.start_run(run_name="mine", description="my words") as active:
        told = reporter(tracker)
        told.start({"numTrainWorkers": 2}, TAGS)
        told.finish("FINISHED", WHOLE)
    fit(reporter(named))
    assert tracker.run_id == active.info.run_id
    run = client.get_run(active.info.run_id)
    assert run.info.run_name == "mine"
    assert run.data.tags["mlflow.note.content"] == "my words"
    assert client.get_run(named.run_id).info.run_name == "named"


def test_active_run_is_used_and_stays_open(client: MlflowClient) -> None:
    tracker = MlflowTracker()
    with mlflow.start_run() as active:
        mlflow.log_param("batchSize", 999)
        fit(reporter(tracker))
        assert tracker.run_id == active.info.run_id
        run = client.get_run(active.info.run_id)
        assert run.info.status == "RUNNING"
        assert run.data.metrics["loss"] == 0.5
        assert run.data.params["batchSize"] == "999"
    assert client.get_run(active.info.run_id).info.status == "FINISHED"
    assert tracker.kept_file is None


def test_second_fit_in_an_active_run_gets_a_child(client: MlflowClient) -> None:
    first, second = MlflowTracker(), MlflowTracker()
    with mlflow.start_run() as active:
        fit(reporter(first))
        told = reporter(second)
        told.start({"batchSize": 16}, {"spark_dlobd.run_id": "fit2"})
        told.finish("FINISHED", {})
    child = client.get_run(second.run_id)
    assert second.run_id != active.info.run_id
    assert child.data.tags["mlflow.parentRunId"] == active.info.run_id
    assert (child.info.status, child.data.params["batchSize"]) == ("FINISHED", "16")


def test_fits_on_other_threads_become_children(client: MlflowClient) -> None:
    with mlflow.start_run() as active:
        tracker = MlflowTracker()
        others = [tracker.new(), tracker.new()]
        threads = [threading.Thread(target=fit, args=(reporter(other),)) for other in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    runs = [client.get_run(other.recorded.run_id) for other in others]
    assert len({run.info.run_id for run in runs} | {active.info.run_id}) == 3
    assert [run.data.tags["mlflow.parentRunId"] for run in runs] == [active.info.run_id] * 2


def test_current_and_named_experiment(client: MlflowClient) -> None:
    current = mlflow.set_experiment("current")
    try:
        in_current, in_named = MlflowTracker(), MlflowTracker(experiment="named")
        fit(reporter(in_current))
        fit(reporter(in_named))
    finally:
        mlflow.set_experiment(experiment_id="0")
    assert client.get_run(in_current.run_id).info.experiment_id == current.experiment_id
    named = client.get_experiment_by_name("named")
    assert client.get_run(in_named.run_id).info.experiment_id == named.experiment_id


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_status_of_a_fit_that_ended_badly(client: MlflowClient, status: str) -> None:
    tracker = MlflowTracker()
    told = reporter(tracker)
    told.start({}, TAGS)
    told.step(0, 0, {"loss": float("nan")})
    told.finish(status, {"error": "rank 1 was lost"})
    run = client.get_run(tracker.run_id)
    assert run.info.status == status
    assert np.isnan(run.data.metrics["step_loss"])


def test_dataset_is_an_input_of_the_run(client: MlflowClient) -> None:
    columns = ColumnSpec.of(
        TensorColumn("x", "float32", (28, 28)), TensorColumn("y", "int64", (), num_classes=10)
    )
    groups = (RowGroup("a", 50),), (RowGroup("b", 10),)
    tracker = MlflowTracker()
    told = reporter(tracker)
    told.start({}, TAGS)
    told.dataset(DatasetRef("file:///cache", columns, *groups), name="mnist", source="s3://u:p@b/m")
    told.finish("FINISHED", {})
    inputs = client.get_run(tracker.run_id).inputs.dataset_inputs
    found = {entry.tags[0].value: entry.dataset for entry in inputs}
    assert found.keys() == {"training", "validation"}
    assert found["training"].name == "mnist"
    assert '"num_rows": 50' in found["training"].profile
    assert '"num_rows": 10' in found["validation"].profile
    assert found["training"].source == '{"path": "s3://b/m"}'
    assert "[-1, 28, 28]" in found["training"].schema.replace("\\", "")


def test_keras_flavour_loads_back_and_predicts_the_same(client: MlflowClient, model: Any) -> None:
    import mlflow.keras

    tracker = MlflowTracker()
    began = time.monotonic()
    fit(reporter(tracker), model=model)
    print(f"fit with model: {time.monotonic() - began:.1f} s")
    rows = np.array([[0.1, 0.2, 0.3], [1.0, -1.0, 0.5]], "float32")
    expected = model.predict(rows, verbose=0)
    loaded = mlflow.keras.load_model(f"models:/{tracker.model_id}")
    np.testing.assert_array_equal(loaded.predict(rows, verbose=0), expected)
    np.testing.assert_array_equal(
        mlflow.pyfunc.load_model(f"runs:/{tracker.run_id}/model").predict(rows), expected
    )
    logged = client.get_logged_model(tracker.model_id)
    assert logged.status == "READY"
    assert logged.source_run_id == tracker.run_id
    assert {metric.key: metric.value for metric in logged.metrics} == {
        "loss": 0.5,
        "val_loss": 0.75,
    }
    outputs = client.get_run(tracker.run_id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [tracker.model_id]
    info = mlflow.models.get_model_info(f"models:/{tracker.model_id}")
    assert info.signature.inputs.inputs[0].shape == (-1, 3)


def test_model_that_cannot_be_saved_still_ends_the_run(
    client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MlflowTracker()
    fit(reporter(tracker), model=object())
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["loss"] == 0.5
    assert tracker.kept_file == tmp_path / "spark_dlobd-metrics-fit1.jsonl"
    assert "AttributeError" in caplog.text


def test_many_steps_arrive_in_few_calls(client: MlflowClient) -> None:
    tracker = MlflowTracker()
    told = Reporter(epochs=1, steps_per_epoch=2500, batch_size=1, trackers=[tracker], verbose=0)
    told.start({}, TAGS)
    began = time.monotonic()
    told.steps([(0, step, {"loss": float(step)}) for step in range(2500)])
    spent = time.monotonic() - began
    print(f"2500 steps told in {spent * 1e3:.0f} ms")
    told.finish("FINISHED", {})
    assert tracker.kept_file is None
    assert len(client.get_metric_history(tracker.run_id, "step_loss")) == 2500


def test_requests_of_other_threads_keep_their_limits(client: MlflowClient) -> None:
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT

    from spark_dlobd.tracking.mlflow.request_limits import request_limits

    seen: list[float] = []
    with request_limits(1.5):
        assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 1.5
        thread = threading.Thread(target=lambda: seen.append(MLFLOW_HTTP_REQUEST_TIMEOUT.get()))
        thread.start()
        thread.join(10)
    assert seen == [120]
    assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 120


def test_autologging_run_is_used(spark: SparkSession, client: MlflowClient) -> None:
    import mlflow.pyspark.ml
    from pyspark.ml import Estimator, Model

    tracker = MlflowTracker()

    class Constant(Model):
        def _transform(self, dataset: Any) -> Any:
            return dataset

    class Tracked(Estimator):
        def _fit(self, dataset: Any) -> Constant:
            fit(reporter(tracker))
            return Constant()

    before = {run.info.run_id for run in client.search_runs(["0"])}
    mlflow.pyspark.ml.autolog(log_models=False, log_datasets=False)
    try:
        Tracked().fit(spark.range(2))
    finally:
        mlflow.pyspark.ml.autolog(disable=True)
    after = {run.info.run_id for run in client.search_runs(["0"])}
    assert after - before == {tracker.run_id}
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics["loss"]) == ("FINISHED", 0.5)
    assert "estimator_class" in run.data.tags


def test_pipeline_model_is_logged_and_predicts(
    spark: SparkSession, client: MlflowClient, tmp_path: Path
) -> None:
    import mlflow.spark
    import pandas as pd
    from pyspark.ml import Pipeline
    from pyspark.ml.feature import StringIndexer

    data = spark.createDataFrame([("a",), ("b",), ("a",)], ["kind"])
    indexer = StringIndexer(inputCol="kind", outputCol="prediction")
    fitted = Pipeline(stages=[indexer]).fit(data)
    tracker = MlflowTracker()
    fit(reporter(tracker))
    began = time.monotonic()
    info = log_pipeline_model(fitted, run_id=tracker.run_id, dfs_tmpdir=str(tmp_path / "dfs"))
    print(f"pipeline logged in {time.monotonic() - began:.1f} s")
    assert info.run_id == tracker.run_id
    assert mlflow.active_run() is None
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert client.get_logged_model(info.model_id).status == "READY"
    outputs = client.get_run(tracker.run_id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [info.model_id]
    loaded = mlflow.pyfunc.load_model(info.model_uri)
    assert loaded.predict(pd.DataFrame({"kind": ["b", "a"]}))["prediction"].tolist() == [1.0, 0.0]
    assert (tmp_path / "dfs").exists() is False or list((tmp_path / "dfs").iterdir()) == []
    folder = mlflow.artifacts.download_artifacts(info.model_uri)
    assert "pyspark==4." in (Path(folder) / "requirements.txt").read_text()
    again = mlflow.spark.load_model(info.model_uri, dfs_tmpdir=str(tmp_path / "dfs"))
    assert [row.prediction for row in again.transform(data).collect()] == [0.0, 1.0, 0.0]
