"""Tracking of fits in MLflow."""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

from spark_dlobd.errors import ConfigurationError, MissingDependencyError
from spark_dlobd.tracking.delivery import Delivery, Limits
from spark_dlobd.tracking.jsonl import (
    RUN_ID_TAG,
    RecordTracker,
    Spool,
    kept_path,
    report_record,
    start_record,
)
from spark_dlobd.tracking.mlflow.place import MlflowPlace
from spark_dlobd.tracking.mlflow.sink import MlflowSink, RunChoice

logger = logging.getLogger("spark_dlobd.tracking")


class MlflowTracker(RecordTracker):
    """Logs a fit to MLflow while it runs. Runs on the driver.

    Metrics go to the run that is active on the thread that calls ``fit``, also
    one that autologging opened; without one to a new run in the current experiment,
    which is ended with the fit. A second fit inside the same active run gets a child
    run of its own.

    In the run: epoch metrics under Keras's names (``loss``, ``val_loss``) over the
    epoch, step metrics as ``step_loss`` over the global step, parameters with what the
    network is (in full in ``params.json``), versions and machine in ``system.json``, the
    dataset, ``learning_curves.png``, the report as ``report.html``, ``report.json`` and
    metrics ``system/fit/...``, and the Keras model. A run without a description gets one
    with result and limit; a name or description that the user gave stays.

    Every call returns at once: records go to a local file, which one daemon thread
    delivers. A server that is down, slow or failing costs the end of the fit one or
    two requests of `timeout_s` and at most `close_timeout_s`; a warning then names it
    and the file ``spark_dlobd-metrics-<run id>.jsonl`` that holds all records. MLflow
    is imported by that thread, too.

    Parameters
    ----------
    tracking_uri : str, optional
        Default is MLflow's current one (``mlflow.set_tracking_uri``,
        MLFLOW_TRACKING_URI). Credentials belong into MLflow's environment variables;
        they never leave the driver.
    experiment : str, optional
        Name of the experiment of a new run. Default is the current one.
    run_name : str, optional
        Name of a new run. Default is network, backend, workers and time, e.g.
        ``"lenet, shuffle, 2 workers, 2026-11-26 14:05"``.
    log_model : bool, optional
        Whether to log the trained model in the Keras flavour. Default True.
    model_name : str, optional
        Name of the logged model. Default ``"model"``.
    timeout_s : float, optional
        Limit of one request to the server, default 5. It holds for this tracker's
        thread alone. Files of the model get six times as much.
    close_timeout_s : float, optional
        Longest wait at the end of a fit for a server that does not keep up, default 20.
    upload_timeout_s : float, optional
        Longest wait at the end of a fit for the model to arrive on a server that has
        taken all metrics, default 300.
    fallback_dir : str or Path, optional
        Where records are kept that could not be delivered. Default is the working
        directory.

    Raises
    ------
    MissingDependencyError
        MLflow is not installed.
    ConfigurationError
        A limit is not positive.

    Examples
    --------
    >>> tracker = MlflowTracker("http://127.0.0.1:5000", run_name="lenet")  # doctest: +SKIP
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        log_model: bool = True,
        *,
        experiment: str | None = None,
        model_name: str = "model",
        timeout_s: float = 5.0,
        close_timeout_s: float = 20.0,
        upload_timeout_s: float = 300.0,
        fallback_dir: str | Path | None = None,
    ) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise MissingDependencyError(
                "MlflowTracker needs MLflow, which is not installed. "
                "Run: pip install 'mlflow>=3.11'"
            )
        limits = {
            "timeout_s": timeout_s,
            "close_timeout_s": close_timeout_s,
            "upload_timeout_s": upload_timeout_s,
        }
        for name, value in limits.items():
            if not value > 0:
                raise ConfigurationError(
                    f"{name} must be a number of seconds above 0. Got {value!r}."
                )
        self.tracking_uri = tracking_uri
        self.run_name = run_name
        self.log_model = log_model
        self.experiment = experiment
        self.model_name = model_name
        self.timeout_s = timeout_s
        self.limits = Limits(close_timeout_s=close_timeout_s, upload_timeout_s=upload_timeout_s)
        self.fallback_dir = fallback_dir
        self._kept_file: Path | None = None
        self._latest: MlflowTracker | None = None
        self._made_on_thread = threading.get_ident()
        self._parent_run_id = _active_run_id(tracking_uri)
        self._fit_id = ""
        self._spool: Spool | None = None
        self._sink: MlflowSink | None = None
        self._delivery: Delivery | None = None
        self._place: MlflowPlace | None = None

    @property
    def run_id(self) -> str | None:
        """The MLflow run of the last fit; None until the server has answered."""
        sink = self._last()._sink
        return sink.run_id if sink else None

    @property
    def model_id(self) -> str | None:
        """The logged Keras model of the last fit, loadable as ``models:/<model_id>``."""
        sink = self._last()._sink
        return sink.model_id if sink else None

    @property
    def kept_file(self) -> Path | None:
        """File of records of the last fit that could not be delivered; None when all were."""
        return self._last()._kept_file

    def _last(self) -> MlflowTracker:
        """The tracker of the last fit: `DLEstimator` takes a new one for each."""
        return self._latest or self

    def new(self) -> MlflowTracker:
        """Return a tracker with the same settings, for a fit that runs at the same time.

        One tracker follows one fit at a time. A run it opens becomes a child of the
        run that was active when the first tracker was made, so the fits of a
        CrossValidator, which run on other threads, are found together.
        """
        other = MlflowTracker(
            self.tracking_uri,
            self.run_name,
            self.log_model,
            experiment=self.experiment,
            model_name=self.model_name,
            timeout_s=self.timeout_s,
            close_timeout_s=self.limits.close_timeout_s,
            upload_timeout_s=self.limits.upload_timeout_s,
            fallback_dir=self.fallback_dir,
        )
        other._made_on_thread = self._made_on_thread
        other._parent_run_id = self._parent_run_id
        self._latest = other
        return other

    def start(self, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Begin a fit. Call it on the thread whose active run is to be used."""
        self._fit_id = tags.get(RUN_ID_TAG) or uuid.uuid4().hex
        self._kept_file, self._latest = None, None
        self._place = MlflowPlace()
        # On its own thread the active run is visible itself; an ended one is no parent.
        elsewhere = threading.get_ident() != self._made_on_thread
        choice = RunChoice(
            tracking_uri=self.tracking_uri,
            experiment=self.experiment,
            run_name=self.run_name,
            active_run_id=_active_run_id(self.tracking_uri),
            parent_run_id=self._parent_run_id if elsewhere else None,
        )
        self._spool = Spool()
        self._sink = MlflowSink(choice, self.timeout_s, self.log_model, self.model_name)
        self._spool.append(start_record(params, {**tags, RUN_ID_TAG: self._fit_id}))
        self._delivery = Delivery(self._spool, self._sink, self.limits)
        self._delivery.start()

    def finish(
        self,
        status: str,
        history: dict[str, list[float]],
        report: dict[str, Any],
        model: Any | None,
    ) -> None:
        """Deliver the rest, log the model and end the run, within the limits."""
        if self._spool is None or self._sink is None or self._delivery is None:
            return
        self._append(report_record(status, history, report))
        error = self._delivery.finish(status, model)
        if error is None:
            self._spool.discard()
        else:
            self._kept_file = self._spool.keep(kept_path(self._fit_id, self.fallback_dir))
            logger.warning(
                "%s did not take everything of this fit (%s). All its metrics are in %s",
                self._sink.target,
                error,
                self._kept_file,
            )
        self._spool = self._delivery = None

    def ids(self) -> dict[str, str]:
        """Return ``mlflow_run_id`` and ``mlflow_model_id``, as far as MLflow has them."""
        found = {"mlflow_run_id": self.run_id, "mlflow_model_id": self.model_id}
        return {name: value for name, value in found.items() if value is not None}

    def last_words(self) -> list[str]:
        """Return where the run is, and how to choose another place if this fit made it."""
        if self._place is None:
            return []
        return self._place.sentences(self.run_id, self.tracking_uri, self.kept_file)

    def _append(self, record: dict[str, Any]) -> None:
        if self._spool is not None:
            self._spool.append(record)


def _active_run_id(tracking_uri: str | None) -> str | None:
    """The run active on this thread, if it lives on the server of `tracking_uri`.

    MLflow is not imported for it: where it has not been, no run is active.
    """
    mlflow: Any = sys.modules.get("mlflow")
    active_run = getattr(mlflow, "active_run", None)
    run = active_run() if active_run else None
    if run is None or (tracking_uri is not None and tracking_uri != mlflow.get_tracking_uri()):
        return None
    return str(run.info.run_id)
