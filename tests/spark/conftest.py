"""Fixtures of the tests that run Spark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.spark.mlflow_server import running_server

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of one server for all tests of a run."""
    with running_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture
def client(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MlflowClient]:
    """MLflow of this process talks to the server, in a directory of its own."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(mlflow_server)
    yield mlflow.MlflowClient(mlflow_server)
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)
