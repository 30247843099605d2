"""What a restarted fit continues from: one npz file per run beside the training rows.

Written by the coordinator after every epoch where ``max_restarts`` allows a restart. It
goes away with the materialized rows.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from spark_dlobd.data.storage import arrow_file_system


@dataclass(frozen=True)
class Progress:
    """How far a fit has come.

    Attributes
    ----------
    epochs : int
        Epochs that are done.
    history : dict of str to list of float
        Their metrics.
    """

    epochs: int
    history: dict[str, list[float]]


def checkpoint_url(root: str, run_id: str) -> str:
    """URL of the checkpoint of a run whose rows are in `root`. Pure."""
    return f"{root}/progress-{run_id}.npz"


def save(url: str, model: Any, progress: Progress) -> None:
    """Write weights, optimizer state and progress; the file is complete or not there.

    Runs on each worker (in the coordinator).
    """
    arrays = {f"v{i}": np.asarray(value) for i, value in enumerate(_variables(model))}
    told = json.dumps({"epochs": progress.epochs, "history": progress.history})
    content = io.BytesIO()
    np.savez(content, progress=np.frombuffer(told.encode(), np.uint8), **arrays)
    system, path = arrow_file_system(url)
    with system.open_output_stream(f"{path}.new") as file:
        file.write(content.getbuffer())
    system.move(f"{path}.new", path)


def restore(url: str, model: Any) -> Progress:
    """Give `model` what `save` wrote; nothing is done yet if there is no file.

    Runs on each worker (in the coordinator).
    """
    system, path = arrow_file_system(url)
    if not system.get_file_info(path).is_file:
        return Progress(0, {})
    with system.open_input_file(path) as file:
        content = io.BytesIO(file.read())
    with np.load(content, allow_pickle=False) as arrays:
        for index, variable in enumerate(_variables(model)):
            variable.assign(arrays[f"v{index}"])
        told = json.loads(arrays["progress"].tobytes())
    return Progress(told["epochs"], told["history"])


def _variables(model: Any) -> list[Any]:
    """Weights, statistics, random states and the optimizer's state, in a fixed order."""
    return [
        *model.trainable_variables,
        *model.non_trainable_variables,
        *model.optimizer.variables,
    ]
