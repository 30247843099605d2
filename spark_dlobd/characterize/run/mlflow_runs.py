"""The MLflow runs of a sweep. Everything here may block or raise."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.run.output import OutputFolder
from spark_dlobd.tracking.encoding import redact
from spark_dlobd.tracking.jsonl import (
    RUN_ID_TAG,
    Record,
    epoch_record,
    report_record,
    start_record,
)
from spark_dlobd.tracking.mlflow.request_limits import request_limits
from spark_dlobd.tracking.mlflow.sink import MlflowSink, RunChoice

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "spark-dlobd characterize"
_REQUEST_S = 10.0
_PAGE_OF_RUNS = 1000


class MlflowRuns:
    """A parent run for the folder of a sweep, and a child run a result.

    Parameters
    ----------
    name : str
        Of the parent run.
    output : OutputFolder
        Remembers the parent run in ``mlflow.json``, so that a resumed sweep goes on in it.
    uri : str
        Tracking URI.
    """

    def __init__(self, name: str, output: OutputFolder, uri: str) -> None:
        self._name = name
        self._output = output
        self._uri = uri
        self._parent = ""
        self._client_made: MlflowClient | None = None

    @property
    def target(self) -> str:
        """The server in messages, without credentials."""
        return f"MLflow at {redact(self._uri)}"

    @property
    def _client(self) -> MlflowClient:
        assert self._client_made is not None
        return self._client_made

    @property
    def _note(self) -> Path:
        return self._output.path / "mlflow.json"

    def open(self, records: Iterable[CaseRecord]) -> None:
        """Find or make the parent run, and add those of `records` that it lacks."""
        # the tables of a new file are announced line by line otherwise
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        from mlflow import MlflowClient

        with request_limits(_REQUEST_S):
            self._client_made = MlflowClient(tracking_uri=self._uri)
            experiment = self._experiment()
            self._parent = self._known_parent() or self._new_parent(experiment)
            there = self._delivered(experiment)
        for record in records:
            if _tag(record) not in there:
                self.add(record)

    def add(self, record: CaseRecord) -> None:
        """Log one result as a child run."""
        choice = RunChoice(
            tracking_uri=self._uri, run_name=record.case.id, parent_run_id=self._parent
        )
        sink = MlflowSink(choice, _REQUEST_S, log_model=False)
        sink.send(list(case_records(record)))
        sink.upload(None)
        assert sink.run_id is not None
        with request_limits(_REQUEST_S):
            for name, value in case_metrics(record).items():
                self._client.log_metric(sink.run_id, name, value)
            if record.error is not None:
                self._client.log_text(sink.run_id, record.error, "error.txt")
        sink.close("FINISHED" if record.finished else "FAILED")

    def add_outputs(self) -> None:
        """Log what the folder holds for people as artifacts of the parent run."""
        output = self._output
        with request_limits(_REQUEST_S):
            for path in (output.page, output.table, output.results.path):
                self._client.log_artifact(self._parent, str(path))
            if output.figures.is_dir():
                self._client.log_artifacts(self._parent, str(output.figures), "figures")

    def close(self, status: str) -> None:
        """End the parent run."""
        with request_limits(_REQUEST_S):
            self._client.set_terminated(self._parent, status)

    def _experiment(self) -> str:
        if configured := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return configured
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # of a file in the folder the artifacts belong beside it, not into the working directory
        here = self._uri.startswith("sqlite:") and str(self._output.path.absolute()) in self._uri
        location = (self._output.path.absolute() / "mlartifacts").as_uri() if here else None
        return str(self._client.create_experiment(name, artifact_location=location))

    def _known_parent(self) -> str | None:
        from mlflow.exceptions import MlflowException

        try:
            noted = json.loads(self._note.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None  # the first sweep here, or one that was killed as it wrote
        if noted.get("uri") != redact(self._uri):
            return None
        try:
            self._client.update_run(noted["run_id"], status="RUNNING", name=self._name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return str(noted["run_id"])

    def _new_parent(self, experiment: str) -> str:
        run_id = str(self._client.create_run(experiment, run_name=self._name).info.run_id)
        self._note.write_text(json.dumps({"uri": redact(self._uri), "run_id": run_id}) + "\n")
        return run_id

    def _delivered(self, experiment: str) -> set[str]:
        """Tags of the results whose child runs are complete."""
        found: set[str] = set()
        token = None
        while True:
            page = self._client.search_runs(
                [experiment],
                f"tags.`mlflow.parentRunId` = '{self._parent}'",
                max_results=_PAGE_OF_RUNS,
                page_token=token,
            )
            found |= {
                run.data.tags.get(RUN_ID_TAG, "") for run in page if run.info.status != "RUNNING"
            }
            token = page.token
            if not token:
                return found


def case_records(record: CaseRecord) -> Iterator[Record]:
    """What `MlflowSink.send` takes, made of a result. Pure."""
    params: dict[str, Any] = {**record.case.to_json(), "backend_options": record.case.backend_param}
    tags = {RUN_ID_TAG: _tag(record), "spark_dlobd.case": record.case.id}
    tags |= {f"machine.{name}": str(value) for name, value in record.machine.items()}
    tags |= {"data.source": str(record.data["source"])} if record.data else {}
    yield start_record(params, tags)
    over_time = record.report.get("metrics_over_time") or {}
    began = record.started or time.time()
    for name, points in over_time.items():
        for epoch, seconds, value in points:
            yield {**epoch_record(int(epoch), {name: value}), "time": began + seconds}
    history = {name: [point[2] for point in points] for name, points in over_time.items()}
    yield report_record(record.status, history, record.report)


def case_metrics(record: CaseRecord) -> dict[str, float]:
    """Numbers of a result that the report of its fit does not have. Pure."""
    numbers = {
        "test_accuracy": record.test_accuracy,
        "test_seconds": record.test_seconds,
        "end_to_end_seconds": record.seconds,
        "wall_seconds": record.wall_seconds,
    }
    return {name: value for name, value in numbers.items() if value is not None}


def _tag(record: CaseRecord) -> str:
    """Tells the results of one case apart that was run again."""
    return f"{record.case.id}@{record.started}"
