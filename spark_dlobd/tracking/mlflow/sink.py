"""All conversation with an MLflow server, on the delivery thread."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_dlobd.processes.machine import system_facts
from spark_dlobd.report.metrics import report_metrics
from spark_dlobd.report.page import report_page
from spark_dlobd.tracking.encoding import redact
from spark_dlobd.tracking.jsonl import RUN_ID_TAG, Record
from spark_dlobd.tracking.mlflow.curves import curves_png
from spark_dlobd.tracking.mlflow.request_limits import request_limits
from spark_dlobd.tracking.mlflow.text import NOTE_TAG, description, param_texts, run_name
from spark_dlobd.tracking.mlflow.types import numpy_type

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Run, RunTag

logger = logging.getLogger("spark_dlobd.tracking")

# Limits of one log_batch call. 1000 metrics with names of at most 250 characters
# stay below its third limit, 1 MB, by construction.
_METRICS_PER_BATCH = 1000
_ENTITIES_PER_BATCH = 100
_KEY_CHARS = 250
_PARAM_CHARS = 6000
_TAG_CHARS = 5000
_UPLOAD_REQUEST_FACTOR = 6


@dataclass(frozen=True)
class RunChoice:
    """Which run a fit writes to, as seen on the thread that called ``fit``.

    Attributes
    ----------
    tracking_uri : str or None
        None is MLflow's current one.
    experiment : str or None
        Name of the experiment for a new run; None is the current one.
    run_name : str or None
        Name of a new run.
    active_run_id : str or None
        The run that was active.
    parent_run_id : str or None
        Parent of a new run.
    """

    tracking_uri: str | None = None
    experiment: str | None = None
    run_name: str | None = None
    active_run_id: str | None = None
    parent_run_id: str | None = None


@dataclass
class MlflowSink:
    """Writes the records of one fit to one MLflow run.

    Parameters
    ----------
    choice : RunChoice
        Which run.
    timeout_s : float
        Limit of one request; the model's files get six times as much.
    log_model : bool
        Whether `upload` logs the Keras model.
    model_name : str
        Name of the LoggedModel.
    """

    choice: RunChoice
    timeout_s: float
    log_model: bool = True
    model_name: str = "model"
    run_id: str | None = None
    model_id: str | None = None
    _owned: bool = False
    _experiment_id: str = "0"
    _uri: str = ""
    _tags_sent: bool = False
    _final: Record = field(default_factory=dict)
    _last_epoch: Record = field(default_factory=dict)
    _client_made: MlflowClient | None = None

    @property
    def target(self) -> str:
        """The server in messages, without credentials."""
        return "MLflow at " + redact(self._uri or self.choice.tracking_uri or "its tracking URI")

    @property
    def _client(self) -> MlflowClient:
        if self._client_made is None:
            raise RuntimeError("The first record must be a start record.")
        return self._client_made

    def _connect(self) -> None:
        import mlflow

        if self._client_made is None:
            self._uri = self.choice.tracking_uri or mlflow.get_tracking_uri()
            self._client_made = mlflow.MlflowClient(tracking_uri=self._uri)

    def send(self, records: list[Record]) -> None:
        """Deliver records in their order."""
        with request_limits(self.timeout_s):
            metrics: list[Metric] = []
            for record in records:
                if record["kind"] == "start":
                    self._begin(record)
                elif record["kind"] == "dataset":
                    self._client.log_inputs(self._run, dataset_inputs(record))
                elif record["kind"] == "report":
                    self._final = record
                else:
                    metrics += as_metrics(record)
                    if record["kind"] == "epoch":
                        self._last_epoch = record
            for begin in range(0, len(metrics), _METRICS_PER_BATCH):
                self._client.log_batch(
                    self._run, metrics=metrics[begin : begin + _METRICS_PER_BATCH], synchronous=True
                )

    def upload(self, model: Any | None) -> None:
        """Log curves, report and the Keras model."""
        with request_limits(self.timeout_s):
            history = {
                name: [float(value) for value in values]
                for name, values in self._final["history"].items()
            }
            report = {key: self._final[key] for key in ("status", "history", "report")}
            self._client.log_dict(self._run, report, "report.json")
            if history:
                self._log_bytes(curves_png(history), "learning_curves.png")
            self._log_report(self._final["report"], self._final["status"])
            if model is not None and self.log_model:
                self._log_keras_model(model)

    def _describe(self, text: str) -> None:
        """Set the description of a run that has none."""
        if NOTE_TAG not in self._client.get_run(self._run).data.tags:
            self._client.set_tag(self._run, NOTE_TAG, text)

    def _log_report(self, report: Record, status: str) -> None:
        """Log the report's numbers as metrics; if it is whole, its page and the description."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        numbers = report_metrics(report)
        metrics = [Metric(_key(name), value, now_ms, 0) for name, value in numbers.items()]
        if metrics:
            self._client.log_batch(self._run, metrics=metrics, synchronous=True)
        if "limit" not in report:
            return
        try:
            text, page = description(report, status), report_page(report, status).encode()
        except Exception:  # writing them must not keep the model from being logged
            logger.exception("The page and the description of the report were not made.")
            return
        self._describe(text)
        self._log_bytes(page, "report.html")

    def close(self, status: str) -> None:
        """End the run if it is ours."""
        with request_limits(self.timeout_s):
            self._client.set_tag(self._run, "spark_dlobd.status", status)
            if self._owned:
                self._client.set_terminated(self._run, status)
        logger.info("MLflow run %s of experiment %s", self.run_id, self._experiment_id)

    @property
    def _run(self) -> str:
        if self.run_id is None:
            raise RuntimeError("The run has not been opened.")
        return self.run_id

    def _begin(self, record: Record) -> None:
        from mlflow.entities import Param

        self._connect()
        run = self._open(record)
        if self._tags_sent:
            return
        tags = run_tags(record["tags"])
        params = [
            Param(key, value)
            for key, value in as_params(record["params"]).items()
            # A parameter cannot be changed; params.json has the full set.
            if run is None or key not in run.data.params
        ]
        for begin in range(0, max(len(tags), len(params)), _ENTITIES_PER_BATCH):
            part = slice(begin, begin + _ENTITIES_PER_BATCH)
            self._client.log_batch(self._run, params=params[part], synchronous=True)
            self._client.log_batch(self._run, tags=tags[part], synchronous=True)
        self._client.log_dict(self._run, record["params"], "params.json")
        self._client.log_dict(self._run, system_facts(), "system.json")
        self._tags_sent = True

    def _open(self, record: Record) -> Run | None:
        """Find or create the run; return it if it may already hold parameters."""
        if self.run_id is not None:
            return None if self._owned else self._client.get_run(self.run_id)
        fit_id = record["tags"].get(RUN_ID_TAG, "")
        parent = self.choice.parent_run_id
        existing = self.choice.active_run_id or self._run_from_environment()
        if existing is not None:
            run = self._client.get_run(existing)
            if run.data.tags.get(RUN_ID_TAG, fit_id) == fit_id:
                self.run_id, self._experiment_id = existing, run.info.experiment_id
                return run
            # Another fit has written to it: a run holds the curves of one fit.
            parent = existing
        self._create(parent, record)
        return None

    def _run_from_environment(self) -> str | None:
        return None if self.choice.tracking_uri else os.environ.get("MLFLOW_RUN_ID")

    def _create(self, parent: str | None, start: Record) -> None:
        from mlflow.tracking.context.registry import resolve_tags

        tags = {"mlflow.parentRunId": parent} if parent else {}
        if parent:
            self._experiment_id = self._client.get_run(parent).info.experiment_id
        else:
            self._experiment_id = self._find_experiment()
        name = self.choice.run_name
        if name is None:
            name = run_name(start["params"], start["tags"], start.get("time") or time.time())
        run = self._client.create_run(self._experiment_id, tags=resolve_tags(tags), run_name=name)
        self.run_id, self._owned = run.info.run_id, True

    def _find_experiment(self) -> str:
        import mlflow

        name = self.choice.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if self.choice.experiment is None and self._uri == mlflow.get_tracking_uri():
            # The experiment of mlflow.set_experiment has no public accessor.
            from mlflow.tracking.fluent import _get_experiment_id

            return str(_get_experiment_id())
        if name is None:
            return "0"
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def _log_bytes(self, content: bytes, name: str) -> None:
        with tempfile.TemporaryDirectory(prefix="spark_dlobd-") as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            self._client.log_artifact(self._run, str(path))

    def _log_keras_model(self, model: Any) -> None:
        from mlflow.entities import LoggedModelOutput

        from spark_dlobd.tracking.mlflow.keras_model import save_keras_model

        client, step = self._client, int(self._last_epoch.get("epoch", 0))
        logged = client.create_logged_model(
            self._experiment_id, name=self.model_name, source_run_id=self._run
        )
        try:
            with tempfile.TemporaryDirectory(prefix="spark_dlobd-") as folder:
                path = str(Path(folder) / "model")
                save_keras_model(model, path, self._run, logged)
                with request_limits(self.timeout_s * _UPLOAD_REQUEST_FACTOR):
                    client.log_model_artifacts(logged.model_id, path)
            client.log_outputs(self._run, [LoggedModelOutput(logged.model_id, step=step)])
            if self._last_epoch:
                metrics = as_metrics(self._last_epoch, model_id=logged.model_id)
                client.log_batch(self._run, metrics=metrics, synchronous=True)
        except BaseException:
            client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        client.finalize_logged_model(logged.model_id, "READY")
        self.model_id = logged.model_id


def as_metrics(record: Record, model_id: str | None = None) -> list[Metric]:
    """Metrics of a step or epoch record.

    Epoch metrics keep Keras's names (``loss``, ``val_loss``) over the epoch, as
    MLflow's own Keras callback logs them. Step metrics are ``step_<name>`` over the
    global step: with a slash MLflow would show them as a section before the learning curves.
    """
    from mlflow.entities import Metric

    prefix, step = ("step_", "global_step") if record["kind"] == "step" else ("", "epoch")
    time_ms = int(record["time"] * 1000)
    return [
        Metric(_key(prefix + name), float(value), time_ms, record[step], model_id=model_id)
        for name, value in record["metrics"].items()
    ]


def run_tags(tags: dict[str, Any]) -> list[RunTag]:
    """Tags as MLflow takes them."""
    from mlflow.entities import RunTag

    return [RunTag(_key(name), str(value)[:_TAG_CHARS]) for name, value in tags.items()]


def as_params(params: dict[str, Any]) -> dict[str, str]:
    """Parameters as MLflow takes them: text of at most 6000 characters, none without value."""
    return {_key(name): text[:_PARAM_CHARS] for name, text in param_texts(params).items()}


def dataset_inputs(record: Record) -> list[DatasetInput]:
    """Dataset inputs for the training rows and, where there are any, the validation rows."""
    from mlflow.data.spark_dataset_source import SparkDatasetSource
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = SparkDatasetSource(path=record["source"])
    schema = json.dumps(_schema(record["columns"]))
    inputs = []
    for context, rows in record["rows"].items():
        if not rows:
            continue
        profile = {"num_rows": rows, "bytes": record["bytes"], "skipped": record["skipped_rows"]}
        text = json.dumps([record["name"], record["source"], schema, context, profile])
        dataset = Dataset(
            name=record["name"],
            digest=hashlib.sha256(text.encode()).hexdigest()[:8],
            source_type=source._get_source_type(),
            source=source.to_json(),
            schema=schema,
            profile=json.dumps(profile),
        )
        inputs.append(DatasetInput(dataset, tags=[InputTag("mlflow.data.context", context)]))
    return inputs


def _schema(columns: dict[str, dict[str, Any]]) -> dict[str, Any]:
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.types import ColSpec, Schema, TensorSpec

    def spec(column: dict[str, Any]) -> ColSpec | TensorSpec:
        return TensorSpec(numpy_type(column["dtype"]), (-1, *column["shape"]), column["name"])

    labels = [role for role in columns if role.partition("_")[0] == "label"]
    features = [spec(column) for role, column in columns.items() if role not in labels]
    targets = [spec(columns[role]) for role in labels]
    schema = TensorDatasetSchema(Schema(features), Schema(targets))
    return dict(schema.to_dict())


def _key(name: str) -> str:
    return re.sub(r"[^\w./ -]", "_", name)[:_KEY_CHARS]
