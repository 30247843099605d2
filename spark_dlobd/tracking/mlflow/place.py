"""Where MLflow has a fit, in words. Runs on the driver."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from spark_dlobd.tracking.encoding import redact


class MlflowPlace:
    """Whether a fit made the place where MLflow has it.

    Make it before the run begins, on the thread that calls ``fit``.
    """

    def __init__(self) -> None:
        self._folder = _current_folder()
        self._there = self._found()

    def sentences(
        self, run_id: str | None, tracking_uri: str | None, kept_file: Path | None
    ) -> list[str]:
        """Return where the run is and, where this fit made the place, how to choose another.

        Parameters
        ----------
        run_id : str or None
            Of the run, where MLflow has one.
        tracking_uri : str or None
            Where it is; None is MLflow's current one.
        kept_file : Path or None
            What could not be delivered.
        """
        told = []
        made = [name for name in self._found() if name not in self._there]
        if made:
            told.append(
                f"This fit made {' and '.join(made)} in {self._folder} for MLflow: "
                "mlflow.set_tracking_uri(...) or MLFLOW_TRACKING_URI chooses another place."
            )
        if run_id is not None:
            told.append(_where(run_id, tracking_uri))
        elif kept_file is not None:
            told.append(f"MLflow has no run of it; its metrics are in {kept_file}.")
        return told

    def _found(self) -> list[str]:
        if self._folder is None:
            return []
        return [name for name in ("mlflow.db", "mlruns") if (self._folder / name).exists()]


def _current_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return None


def _where(run_id: str, tracking_uri: str | None) -> str:
    mlflow: Any = sys.modules["mlflow"]
    uri = redact(tracking_uri or mlflow.get_tracking_uri())
    if uri.startswith(("http:", "https:", "databricks")):
        return f"MLflow run {run_id} at {uri}"
    return f"MLflow run {run_id}: mlflow ui --backend-store-uri {_short(uri)}"


def _short(uri: str) -> str:
    """A store below the current directory as one would type it."""
    scheme, _, path = uri.partition(":///")
    if scheme == "sqlite" and path and Path(path).is_relative_to(Path.cwd()):
        return f"sqlite:///{Path(path).relative_to(Path.cwd())}"
    return uri
