"""One fit on its way to MLflow, and where MLflow has it."""

from __future__ import annotations

import logging
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spark_dlobd.tracking.delivery import Delivery
from spark_dlobd.tracking.jsonl import (
    RUN_ID_TAG,
    RecordTracker,
    Spool,
    kept_path,
    start_record,
)
from spark_dlobd.tracking.mlflow.place import MlflowPlace
from spark_dlobd.tracking.mlflow.settings import MlflowSettings
from spark_dlobd.tracking.mlflow.sink import MlflowSink, RunChoice

logger = logging.getLogger("spark_dlobd.tracking")


@dataclass(frozen=True)
class Parent:
    """Under which run the fits of one tracker are found together.

    Attributes
    ----------
    thread : int
        Where the tracker was made; there the active run is visible itself.
    run_id : str or None
        The run that was active.
    """

    thread: int
    run_id: str | None

    @classmethod
    def here(cls, tracking_uri: str | None) -> Parent:
        """The run that is active on this thread."""
        return cls(threading.get_ident(), active_run_id(tracking_uri))


@dataclass(frozen=True)
class Recorded:
    """Where a fit is recorded.

    Attributes
    ----------
    run_id : str or None
        The MLflow run; None until the server has answered.
    model_id : str or None
        The logged Keras model, loadable as ``models:/<model_id>``.
    kept_file : Path or None
        Records that could not be delivered; None when all were.
    """

    run_id: str | None = None
    model_id: str | None = None
    kept_file: Path | None = None


class MlflowRecorder(RecordTracker):
    """Takes one fit to MLflow while it runs. Runs on the driver.

    Parameters
    ----------
    settings : MlflowSettings
        What is recorded, and where.
    parent : Parent
        Of a run that is opened for it.
    """

    def __init__(self, settings: MlflowSettings, parent: Parent) -> None:
        self._settings = settings
        self._parent = parent
        self._kept_file: Path | None = None
        self._fit_id = ""
        self._spool: Spool | None = None
        self._sink: MlflowSink | None = None
        self._delivery: Delivery | None = None
        self._place: MlflowPlace | None = None

    @property
    def recorded(self) -> Recorded:
        """Where the fit is, as far as it is known."""
        sink = self._sink
        return Recorded(sink.run_id, sink.model_id, self._kept_file) if sink else Recorded()

    def start(self, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Begin a fit. Call it on the thread whose active run is to be used."""
        settings = self._settings
        self._fit_id = tags.get(RUN_ID_TAG) or uuid.uuid4().hex
        self._place = MlflowPlace()
        # On its own thread the active run is visible itself; an ended one is no parent.
        elsewhere = threading.get_ident() != self._parent.thread
        choice = RunChoice(
            tracking_uri=settings.tracking_uri,
            experiment=settings.experiment,
            run_name=settings.run_name,
            active_run_id=active_run_id(settings.tracking_uri),
            parent_run_id=self._parent.run_id if elsewhere else None,
        )
        self._spool = Spool()
        self._sink = MlflowSink(choice, settings.timeout_s, settings.log_model, settings.model_name)
        self._spool.append(start_record(params, {**tags, RUN_ID_TAG: self._fit_id}))
        self._delivery = Delivery(self._spool, self._sink, settings.limits)
        self._delivery.start()

    def _end(self, status: str, model: Any | None) -> None:
        """Deliver the rest, log the model and end the run, within the limits."""
        if self._spool is None or self._sink is None or self._delivery is None:
            return
        error = self._delivery.finish(status, model)
        if error is None:
            self._spool.discard()
        else:
            self._kept_file = self._spool.keep(kept_path(self._fit_id, self._settings.fallback_dir))
            logger.warning(
                "%s did not take everything of this fit (%s). All its metrics are in %s",
                self._sink.target,
                error,
                self._kept_file,
            )
        self._spool = self._delivery = None

    def ids(self) -> dict[str, str]:
        """Return ``mlflow_run_id`` and ``mlflow_model_id``, as far as MLflow has them."""
        found = {"mlflow_run_id": self.recorded.run_id, "mlflow_model_id": self.recorded.model_id}
        return {name: value for name, value in found.items() if value is not None}

    def last_words(self) -> list[str]:
        """Return where the run is, and how to choose another place if this fit made it."""
        if self._place is None:
            return []
        uri = self._settings.tracking_uri
        return self._place.sentences(self.recorded.run_id, uri, self._kept_file)

    def _append(self, record: dict[str, Any]) -> None:
        if self._spool is not None:
            self._spool.append(record)


def active_run_id(tracking_uri: str | None) -> str | None:
    """The run active on this thread, if it lives on the server of `tracking_uri`.

    MLflow is not imported for it: where it has not been, no run is active.
    """
    mlflow: Any = sys.modules.get("mlflow")
    active_run = getattr(mlflow, "active_run", None)
    run = active_run() if active_run else None
    if run is None or (tracking_uri is not None and tracking_uri != mlflow.get_tracking_uri()):
        return None
    return str(run.info.run_id)
