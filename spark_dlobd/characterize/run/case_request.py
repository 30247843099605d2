"""What the runner asks a case's process for, and what comes back."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spark_dlobd.characterize.sweep.case import Case


@dataclass(frozen=True)
class CaseRequest:
    """One case with everything its process needs.

    Attributes
    ----------
    case : Case
        What to train and test.
    folder : Path
        An empty folder for all temporary files; the answer is written there.
    data_path : str or None
        Where the files of the data set are.
    master : str or None
        Master URL; by default ``local`` with a slot a worker.
    conf : dict of str to str
        Further settings of the Spark session.
    cache_dir : str or None
        Where training rows are materialized, reachable by all executors. By default a
        folder on this machine, which does for all but a cluster.
    explain : bool
        Whether the case explains its fit too, for the check of predictions.
    """

    case: Case
    folder: Path
    data_path: str | None = None
    master: str | None = None
    conf: dict[str, str] = field(default_factory=dict)
    cache_dir: str | None = None
    explain: bool = False

    @property
    def on_this_machine(self) -> bool:
        """Whether all workers are on the driver's machine."""
        return self.case.link_mbit is not None or (self.master or "local").startswith("local")

    def write(self) -> Path:
        """Write it into its folder for `read`; return the file."""
        content = {
            "case": self.case.to_json(),
            "folder": str(self.folder),
            "data_path": self.data_path,
            "master": self.master,
            "conf": self.conf,
            "cache_dir": self.cache_dir,
            "explain": self.explain,
        }
        path = self.folder / "request.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> CaseRequest:
        """Read what `write` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        content["case"] = Case.from_json(content["case"])
        return cls(**{**content, "folder": Path(content["folder"])})


def write_answer(folder: Path, answer: dict[str, Any]) -> None:
    """Leave the answer of a case, whole or not at all."""
    from spark_dlobd.tracking.encoding import jsonable

    text = json.dumps(jsonable(answer), allow_nan=False)
    unfinished = folder / "answer.json.part"
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, folder / "answer.json")


def read_answer(folder: Path) -> dict[str, Any] | None:
    """Return what `write_answer` left; None if the process did not get that far."""
    try:
        answer: dict[str, Any] = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return answer
