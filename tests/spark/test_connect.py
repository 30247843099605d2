"""Scoring, saving and loading with Spark Connect, beside a classic session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession

from spark_dlobd import DLModel
from tests.spark.connect_program import rows

pytest.importorskip("grpc_status")
pytestmark = pytest.mark.timeout(600)
TREE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model() -> DLModel:
    keras.utils.set_random_seed(1)
    layers = [keras.Input((2,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(3, "softmax")]
    return DLModel(handleInvalid="skip").setModel(keras.Sequential(layers), "classification")


@pytest.fixture(scope="module")
def folder(model: DLModel, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a program with Spark Connect made of stages of a classic session."""
    folder = tmp_path_factory.mktemp("connect")
    model.save(f"{folder}/classic")
    PipelineModel(stages=[model]).save(f"{folder}/classic_pipeline")
    path = f"{TREE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    program = subprocess.run(
        [sys.executable, "-m", "tests.spark.connect_program", str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert program.returncode == 0, program.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return answer


@pytest.fixture(scope="module")
def expected(model: DLModel, spark: SparkSession) -> list[Any]:
    df = spark.createDataFrame(rows(), "features array<double>, label int").coalesce(1)
    scored = model.transform(df).select("prediction", "probability").collect()
    return [[row.prediction, row.probability.toArray().tolist()] for row in scored]


@pytest.mark.parametrize("way", ["classic", "connect", "pipeline", "copy"])
def test_scores_are_those_of_a_classic_session(
    found: dict[str, Any], expected: list[Any], way: str
) -> None:
    assert found["remote"] == "pyspark.sql.connect.session"
    assert [row[0] for row in found[way]] == [row[0] for row in expected]
    for ours, theirs in zip(found[way], expected, strict=True):
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)


def test_a_classic_session_loads_what_connect_saved(
    folder: Path, found: dict[str, Any], model: DLModel
) -> None:
    assert DLModel.load(f"{folder}/connect").fitted() == model.fitted()
    (stage,) = PipelineModel.load(f"{folder}/connect_pipeline").stages
    assert isinstance(stage, DLModel) and stage.fitted() == model.fitted()


def test_a_damaged_table_is_no_model(folder: Path, found: dict[str, Any], tmp_path: Path) -> None:
    from shutil import copytree

    from spark_dlobd.errors import PersistenceError

    copy = copytree(folder / "connect", tmp_path / "copy")
    for part in (copy / "model.keras.parquet").iterdir():
        part.unlink()
    with pytest.raises(PersistenceError, match=r"Cannot read .*model\.keras\.parquet"):
        DLModel.load(str(copy))


def test_what_cannot_be_done_says_so(found: dict[str, Any]) -> None:
    assert "DataError: 1 of 4 rows" in found["error"]
    assert found["taken"].startswith("PersistenceError: ") and "already exists" in found["taken"]
    assert "/nothing/metadata does not exist" in found["missing"]
    assert found["fit"].startswith("ConfigurationError: This needs a classic session")
