from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from spark_dlobd.tracking.last_words import last_words
from spark_dlobd.tracking.mlflow.place import MlflowPlace


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
    where = uri and uri.format(cwd=tmp_path)
    assert MlflowPlace().sentences("3f2a", where, None) == [said]


def test_a_run_that_mlflow_does_not_have(tmp_path: Path) -> None:
    assert MlflowPlace().sentences(None, None, None) == []
    assert MlflowPlace().sentences(None, None, tmp_path / "kept.jsonl") == [
        f"MLflow has no run of it; its metrics are in {tmp_path}/kept.jsonl."
    ]


def test_the_fit_that_makes_the_store_says_so_once(tmp_path: Path) -> None:
    first = MlflowPlace()
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "mlruns").mkdir()
    assert first.sentences("3f2a", None, None)[0] == (
        f"This fit made mlflow.db and mlruns in {tmp_path} for MLflow: "
        "mlflow.set_tracking_uri(...) or MLFLOW_TRACKING_URI chooses another place."
    )
    assert len(MlflowPlace().sentences("3f2a", None, None)) == 1
