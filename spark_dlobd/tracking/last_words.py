"""What is said after a fit: its results in some sentences, and where its run is."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spark_dlobd.tracking.encoding import redact


def last_words(
    report: Mapping[str, Any],
    history: Mapping[str, Sequence[float]],
    epochs: int,
    seconds: float,
) -> list[str]:
    """Return what a fit came to: metrics, what limits it, and what trained. Pure.

    Parameters
    ----------
    report : mapping
        Of the fit; what it lacks is left out.
    history : mapping of str to list of float
        Metrics by epoch.
    epochs : int
        That were asked for.
    seconds : float
        Of the whole fit.

    Examples
    --------
    >>> report = {"backend": "local", "workers": 1, "backend_reason": "chosen by the user"}
    >>> for sentence in last_words(report, {"loss": [0.5, 0.25], "val_loss": [1, 2]}, 3, 4.2):
    ...     print(sentence)
    Trained 2 of 3 epochs in 4.2 s: loss 0.2500, val_loss 2.0000.
    Backend local, 1 worker (chosen by the user).
    """
    done = max((len(values) for values in history.values()), default=0)
    count = f"{done} of {epochs}" if done != epochs else str(done)
    metrics = ", ".join(f"{name} {_number(values[-1])}" for name, values in history.items())
    told = [f"Trained {count} epoch{'s' * (epochs != 1)} in {seconds:.1f} s: {metrics}."]
    if limit := report.get("limit"):
        told.append(_first_sentence(limit["text"]))
    workers = report["workers"]
    told.append(
        f"Backend {report['backend']}, {workers} worker{'s' * (workers != 1)} "
        f"({report['backend_reason']})."
    )
    return told


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) > 1e-3 else f"{value:.4e}"


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s+(?=[A-Z])", text, maxsplit=1)[0]


class MlflowPlace:
    """Where MLflow has a fit, and whether the fit made the place.

    Make it before the trackers start, on the thread that calls ``fit``.

    Parameters
    ----------
    trackers : sequence
        Of the fit; those that are not MLflow's are passed over.
    """

    def __init__(self, trackers: Sequence[Any]) -> None:
        self._trackers = [tracker for tracker in trackers if hasattr(tracker, "kept_file")]
        self._folder = _current_folder() if self._trackers else None
        self._there = self._found()

    def sentences(self) -> list[str]:
        """Return where the run is and, where this fit made the place, how to choose another."""
        told = []
        made = [name for name in self._found() if name not in self._there]
        if made:
            told.append(
                f"This fit made {' and '.join(made)} in {self._folder} for MLflow: "
                "mlflow.set_tracking_uri(...) or MLFLOW_TRACKING_URI chooses another place."
            )
        told += [_where(tracker) for tracker in self._trackers]
        return [sentence for sentence in told if sentence]

    def _found(self) -> list[str]:
        if self._folder is None:
            return []
        return [name for name in ("mlflow.db", "mlruns") if (self._folder / name).exists()]


def _current_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return None


def _where(tracker: Any) -> str:
    if tracker.run_id is None:
        kept = tracker.kept_file
        return f"MLflow has no run of it; its metrics are in {kept}." if kept else ""
    mlflow: Any = sys.modules["mlflow"]
    uri = redact(tracker.tracking_uri or mlflow.get_tracking_uri())
    if uri.startswith(("http:", "https:", "databricks")):
        return f"MLflow run {tracker.run_id} at {uri}"
    return f"MLflow run {tracker.run_id}: mlflow ui --backend-store-uri {_short(uri)}"


def _short(uri: str) -> str:
    """A store below the current directory as one would type it."""
    scheme, _, path = uri.partition(":///")
    if scheme == "sqlite" and path and Path(path).is_relative_to(Path.cwd()):
        return f"sqlite:///{Path(path).relative_to(Path.cwd())}"
    return uri
