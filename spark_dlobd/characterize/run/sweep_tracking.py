"""A sweep in MLflow: a parent run, and a child run a case. It never stops a sweep."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.run.mlflow_runs import MlflowRuns
from spark_dlobd.characterize.run.output import OutputFolder
from spark_dlobd.characterize.run.patience import Helper
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.characterize.sweep.spec import Sweep

_OPEN_S, _CASE_S, _OUTPUTS_S = 90.0, 30.0, 60.0


class SweepTracking:
    """A `Watcher` that logs results to MLflow between cases; a context manager.

    A server that fails, or takes longer than a case's results may take, is told of
    once and left alone from then on: everything is in the results file, and the next
    sweep on the folder delivers what is missing.

    Parameters
    ----------
    sweep : Sweep
        What runs.
    output : OutputFolder
        Where its results are.
    uri : str
        Tracking URI; see `tracking_uri`.
    warn : callable
        Tells people.

    Attributes
    ----------
    status : str
        With which the parent run ends if there is no error; an interrupted sweep sets it.
    """

    def __init__(
        self, sweep: Sweep, output: OutputFolder, uri: str, warn: Callable[[str], None]
    ) -> None:
        self.status = "FINISHED"
        self._output = output
        self._warn = warn
        self._runs = MlflowRuns(sweep.name, output, uri)
        self._helper: Helper | None = Helper("characterize-mlflow")

    def __enter__(self) -> SweepTracking:
        self._attempt(lambda: self._runs.open(self._output.results.read().records), _OPEN_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        status = self.status if kind is None else "FAILED"
        self._attempt(lambda: self._runs.close(status), _CASE_S)

    def started(self, case: Case, records: tuple[CaseRecord, ...]) -> None:
        """Nothing: while a case is measured nobody talks to a server."""

    def ended(self, record: CaseRecord) -> None:
        """Log a result as a child run."""
        self._attempt(lambda: self._runs.add(record), _CASE_S)

    def outputs(self) -> None:
        """Log page, figures, tables and results as artifacts of the parent run."""
        self._attempt(self._runs.add_outputs, _OUTPUTS_S)

    def _attempt(self, work: Callable[[], None], limit_s: float) -> None:
        if self._helper is None:
            return
        problem = self._helper.do(work, limit_s)
        if problem is not None:
            self._helper = None
            self._warn(
                f"{self._runs.target} does not record this sweep any more: {problem}. All "
                f"results are in {self._output.results.path}; the next sweep on this folder "
                "delivers them."
            )


def tracking_uri(given: str | None, folder: Path) -> str:
    """Where a sweep is recorded: as asked for, as MLflow is configured, or in the folder."""
    configured = given or os.environ.get("MLFLOW_TRACKING_URI")
    return configured or f"sqlite:///{(folder / 'mlflow.db').absolute()}"
