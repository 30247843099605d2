"""Tracking of fits in MLflow."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from spark_dlobd.errors import MissingDependencyError
from spark_dlobd.tracking.base import Tracker
from spark_dlobd.tracking.delivery import Limits
from spark_dlobd.tracking.mlflow.recorder import MlflowRecorder, Parent, Recorded
from spark_dlobd.tracking.mlflow.settings import MlflowSettings


class MlflowTracker(Tracker):
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
        self.settings = MlflowSettings(
            tracking_uri=tracking_uri,
            experiment=experiment,
            run_name=run_name,
            log_model=log_model,
            model_name=model_name,
            timeout_s=timeout_s,
            limits=Limits(close_timeout_s=close_timeout_s, upload_timeout_s=upload_timeout_s),
            fallback_dir=fallback_dir,
        )
        self._parent = Parent.here(tracking_uri)
        self._last: MlflowRecorder | None = None

    def new(self) -> MlflowRecorder:
        """Return what records one fit; fits may run at the same time.

        A run it opens becomes a child of the run that was active when this tracker was
        made, so the fits of a CrossValidator, which run on other threads, are found together.
        """
        self._last = MlflowRecorder(self.settings, self._parent)
        return self._last

    @property
    def recorded(self) -> Recorded:
        """Where the last fit is recorded."""
        return self._last.recorded if self._last else Recorded()

    @property
    def run_id(self) -> str | None:
        """The MLflow run of the last fit; None until the server has answered."""
        return self.recorded.run_id

    @property
    def model_id(self) -> str | None:
        """The logged Keras model of the last fit, loadable as ``models:/<model_id>``."""
        return self.recorded.model_id

    @property
    def kept_file(self) -> Path | None:
        """File of records of the last fit that could not be delivered; None when all were."""
        return self.recorded.kept_file
