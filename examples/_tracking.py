"""An MLflow store in one folder, for the examples."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def use_mlflow(folder: Path, experiment: str) -> None:
    """Record in ``folder/mlflow.db``, with the files of the runs in ``folder/artifacts``."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    if mlflow.get_experiment_by_name(experiment) is None:
        # The default would be a folder under the current directory.
        mlflow.create_experiment(experiment, artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment(experiment)


def ui_command(folder: Path) -> str:
    """Return the command that shows the store in a browser, from the current directory."""
    program = Path(sys.executable).with_name("mlflow")
    return f"{shown(program)} ui --backend-store-uri sqlite:///{shown(folder / 'mlflow.db')}"


def shown(path: Path) -> str:
    """Return `path` as one would type it: relative if it is below the current directory."""
    below = path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd()) if below else path)
