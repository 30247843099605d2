from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from spark_dlobd.tracking.last_words import MlflowPlace, last_words


class Tracked:
    """As much of `MlflowTracker` as the last words need."""

    def __init__(self, run_id: str | None = "3f2a", uri: str | None = None) -> None:
        self.run_id = run_id
        self.tracking_uri = uri
        self.kept_file: Path | None = None


@pytest.fixture(autouse=True)
def _mlflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = types.ModuleType("mlflow")
    mlflow.get_tracking_uri = lambda: "sqlite:///mlflow.db"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.chdir(tmp_path)


def test_metrics_limit_and_backend() -> None:
    report = {
        "backend": "shuffle",
        "workers": 2,
        "backend_reason": "auto: several workers and Horovod is not installed",
        "limit": {
            "by": "start-up",
            "text": "Start-up limits this fit: 62 % of its 12.3 s went by (starting the workers "
            "1.5 s). It is paid once: more epochs pay it back.",
        },
    }
    history = {"loss": [0.5, 0.25], "val_loss": [0.75, 1e-5]}
    assert last_words(report, history, 2, 12.34) == [
        "Trained 2 epochs in 12.3 s: loss 0.2500, val_loss 1.0000e-05.",
        "Start-up limits this fit: 62 % of its 12.3 s went by (starting the workers 1.5 s).",
        "Backend shuffle, 2 workers (auto: several workers and Horovod is not installed).",
    ]


@pytest.mark.parametrize(("epochs", "said"), [(1, "1 epoch "), (3, "1 of 3 epochs ")])
def test_a_fit_that_ended_early_says_so(epochs: int, said: str) -> None:
    report = {"backend": "local", "workers": 1, "backend_reason": "chosen by the user"}
    found = last_words(report, {"loss": [0.5]}, epochs, 1.0)
    assert found[0].startswith(f"Trained {said}in 1.0 s")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (None, "MLflow run 3f2a: mlflow ui --backend-store-uri sqlite:///mlflow.db"),
        (
            "sqlite:///{cwd}/a/b.db",
            "MLflow run 3f2a: mlflow ui --backend-store-uri sqlite:///a/b.db",
        ),
        ("http://ann:secret@host:5000", "MLflow run 3f2a at http://host:5000"),
    ],
)
def test_where_the_run_is_and_how_to_open_it(uri: str | None, said: str, tmp_path: Path) -> None:
    tracker = Tracked(uri=uri and uri.format(cwd=tmp_path))
    assert MlflowPlace([tracker]).sentences() == [said]


def test_a_run_that_mlflow_does_not_have(tmp_path: Path) -> None:
    tracker = Tracked(run_id=None)
    assert MlflowPlace([tracker]).sentences() == []
    tracker.kept_file = tmp_path / "kept.jsonl"
    assert MlflowPlace([tracker]).sentences() == [
        f"MLflow has no run of it; its metrics are in {tmp_path}/kept.jsonl."
    ]


def test_the_fit_that_makes_the_store_says_so_once(tmp_path: Path) -> None:
    first = MlflowPlace([Tracked()])
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "mlruns").mkdir()
    assert first.sentences()[0] == (
        f"This fit made mlflow.db and mlruns in {tmp_path} for MLflow: "
        "mlflow.set_tracking_uri(...) or MLFLOW_TRACKING_URI chooses another place."
    )
    assert len(MlflowPlace([Tracked()]).sentences()) == 1


def test_other_trackers_have_no_place(tmp_path: Path) -> None:
    class Other:
        pass

    trackers: list[Any] = [Other()]
    place = MlflowPlace(trackers)
    (tmp_path / "mlflow.db").touch()
    assert place.sentences() == []
