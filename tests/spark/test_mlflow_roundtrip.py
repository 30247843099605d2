"""A DLEstimator in a Pipeline against a real MLflow server, and back out of it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from spark_dlobd import DLEstimator, MlflowTracker, log_pipeline_model
from spark_dlobd.errors import WorkerError
from tests.spark.mlflow_server import free_port, wait_for

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from pyspark.sql import DataFrame, SparkSession

mlflow = pytest.importorskip("mlflow")
keras = pytest.importorskip("keras")

EPOCHS = 3
TRAIN, VALIDATION, BATCH = 48, 16, 16
STEPS = EPOCHS * TRAIN // BATCH
VALUES = np.random.default_rng(1).normal(size=(TRAIN + VALIDATION, 3))
FEATURES: list[list[float]] = VALUES.tolist()
KINDS = ["above" if sum(row) > 0 else "below" for row in FEATURES]


class Watch(keras.callbacks.Callback):
    """At the start of the last epoch, what the server has of the others."""

    run_id = ""
    seen: ClassVar[dict[str, Any]] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch != EPOCHS - 1:
            return
        server = mlflow.MlflowClient()

        def epochs() -> list[float]:
            history = server.get_metric_history(Watch.run_id, "loss")
            return [metric.value for metric in sorted(history, key=lambda metric: metric.step)]

        wait_for(lambda: len(epochs()) == EPOCHS - 1, "arrival of the epochs so far", 60)
        Watch.seen = {
            "loss": epochs(),
            "status": server.get_run(Watch.run_id).info.status,
            "steps": len(server.get_metric_history(Watch.run_id, "step_loss")),
        }


class Broken(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        raise ValueError("the callback of this test")


def estimator(**changed: Any) -> DLEstimator:
    keras.utils.set_random_seed(1)
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    settings: dict[str, Any] = {
        "loss": "sparse_categorical_crossentropy",
        "optimizer": "sgd",
        "validationIndicatorCol": "validates",
        "backend": "local",
        "batchSize": BATCH,
        "epochs": EPOCHS,
        "verbose": 0,
    }
    return DLEstimator(model=network, **{**settings, **changed})


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    """64 rows of array<double> features; the last 16 validate."""
    table = [
        (i, row, kind, i >= TRAIN)
        for i, (row, kind) in enumerate(zip(FEATURES, KINDS, strict=True))
    ]
    columns = "id int, features array<double>, kind string, validates boolean"
    return spark.createDataFrame(table, columns).coalesce(2).cache()


@dataclass(frozen=True)
class Fitted:
    run_id: str
    pipeline: Any
    pipeline_uri: str
    probabilities: np.ndarray[Any, Any]

    @property
    def model(self) -> Any:
        return self.pipeline.stages[1]


@pytest.fixture(scope="module")
def fitted(mlflow_server: str, rows: DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """One fit in an active run, its pipeline logged there too."""
    from pyspark.ml import Pipeline
    from pyspark.ml.feature import StringIndexer

    indexer = StringIndexer(inputCol="kind", outputCol="label")
    pipeline = Pipeline(stages=[indexer, estimator(callbacks=[Watch()])])
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(mlflow_server)
    try:
        with mlflow.start_run() as run:
            Watch.run_id = run.info.run_id
            model = pipeline.fit(rows)
            dfs = tmp_path_factory.mktemp("dfs")
            info = log_pipeline_model(model, dfs_tmpdir=str(dfs))
    finally:
        mlflow.set_tracking_uri(before)
    scored = model.transform(rows).sort("id").collect()
    probabilities = np.array([row.probability.toArray() for row in scored])
    return Fitted(run.info.run_id, model, info.model_uri, probabilities)


def series(client: MlflowClient, run_id: str, name: str) -> list[float]:
    history = client.get_metric_history(run_id, name)
    return [metric.value for metric in sorted(history, key=lambda metric: metric.step)]


def test_metrics_arrive_while_it_trains(fitted: Fitted) -> None:
    assert Watch.seen["status"] == "RUNNING"
    assert Watch.seen["loss"] == fitted.model.history["loss"][: EPOCHS - 1]
    assert Watch.seen["steps"] == STEPS * (EPOCHS - 1) // EPOCHS


def test_run_holds_params_metrics_curves_and_data(fitted: Fitted, client: MlflowClient) -> None:
    run = client.get_run(fitted.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == str(EPOCHS)
    assert run.data.params["batchSize"] == str(BATCH)
    assert run.data.params["optimizer"] == "sgd"
    assert run.data.tags["backend"] == "local"
    for name in ("loss", "val_loss"):
        assert series(client, fitted.run_id, name) == fitted.model.history[name]
    assert len(series(client, fitted.run_id, "step_loss")) == STEPS
    files = {file.path for file in client.list_artifacts(fitted.run_id)}
    assert files >= {"learning_curves.png", "params.json", "report.json"}
    inputs = client.get_run(fitted.run_id).inputs.dataset_inputs
    profiles = {entry.tags[0].value: json.loads(entry.dataset.profile) for entry in inputs}
    assert profiles["training"]["num_rows"] == TRAIN
    assert profiles["validation"]["num_rows"] == VALIDATION


def test_report_says_where_mlflow_has_the_fit(fitted: Fitted, client: MlflowClient) -> None:
    assert fitted.model.report["mlflow_run_id"] == fitted.run_id
    logged = client.get_logged_model(fitted.model.report["mlflow_model_id"])
    assert (logged.source_run_id, logged.status) == (fitted.run_id, "READY")


def test_keras_flavour_predicts_the_same(fitted: Fitted, client: MlflowClient) -> None:
    import mlflow.keras

    loaded = mlflow.keras.load_model(f"runs:/{fitted.run_id}/model")
    found = loaded.predict(VALUES.astype("float32"), verbose=0)
    np.testing.assert_allclose(found, fitted.probabilities, atol=1e-6)


def test_spark_flavour_predicts_the_same(
    fitted: Fitted, client: MlflowClient, rows: DataFrame, tmp_path: Path
) -> None:
    import mlflow.spark

    loaded = mlflow.spark.load_model(fitted.pipeline_uri, dfs_tmpdir=str(tmp_path))
    scored = loaded.transform(rows).sort("id").collect()
    found = np.array([row.probability.toArray() for row in scored])
    np.testing.assert_array_equal(found, fitted.probabilities)


def test_pyfunc_takes_lists_in_pandas_and_predicts_the_same(
    fitted: Fitted, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import pandas as pd

    monkeypatch.setenv("MLFLOW_DFS_TMP", str(tmp_path))
    loaded = mlflow.pyfunc.load_model(fitted.pipeline_uri)
    found = loaded.predict(pd.DataFrame({"features": FEATURES}))
    assert found.columns.tolist() == ["rawPrediction", "probability", "prediction"]
    assert found.prediction.tolist() == fitted.probabilities.argmax(axis=1).tolist()
    np.testing.assert_allclose(np.stack(found.probability), fitted.probabilities, atol=1e-6)


def test_passed_tracker_knows_its_own_run(
    client: MlflowClient, rows: DataFrame, tmp_path: Path
) -> None:
    tracker = MlflowTracker(run_name="own", log_model=False)
    labelled = rows.selectExpr("features", "cast(kind = 'above' as int) label", "validates")
    model = estimator(epochs=1, tracker=tracker).fit(labelled)
    run = client.get_run(tracker.run_id)
    assert (run.info.run_name, run.info.status) == ("own", "FINISHED")
    assert model.report["mlflow_run_id"] == tracker.run_id
    assert tracker.model_id is None
    assert tracker.kept_file is None
    assert list(tmp_path.glob("spark_dlobd-metrics-*")) == []


def test_fit_that_fails_ends_its_run_as_failed(client: MlflowClient, rows: DataFrame) -> None:
    tracker = MlflowTracker()
    labelled = rows.selectExpr("features", "cast(kind = 'above' as int) label", "validates")
    with pytest.raises(WorkerError, match="the callback of this test"):
        estimator(callbacks=[Broken()], tracker=tracker).fit(labelled)
    assert client.get_run(tracker.run_id).info.status == "FAILED"


def test_dead_server_costs_seconds_and_leaves_the_records(
    rows: DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    tracker = MlflowTracker(dead, timeout_s=2, fallback_dir=tmp_path)
    labelled = rows.selectExpr("features", "cast(kind = 'above' as int) label", "validates")
    began = time.monotonic()
    model = estimator(tracker=tracker).fit(labelled)
    print(f"fit with a dead server: {time.monotonic() - began:.1f} s")
    assert model.report["seconds"]["log"] < 15
    assert "mlflow_run_id" not in model.report
    assert [tracker.kept_file] == list(tmp_path.glob("spark_dlobd-metrics-*.jsonl"))
    assert f"{dead} did not take everything" in caplog.text
    records = [json.loads(line) for line in tracker.kept_file.read_text().splitlines()]
    losses = [record["metrics"]["loss"] for record in records if record["kind"] == "epoch"]
    assert losses == model.history["loss"]
    assert sum(record["kind"] == "step" for record in records) == STEPS
    assert records[-1]["status"] == "FINISHED"
