"""What a Python worker keeps of the networks that it scored with."""

from __future__ import annotations

import gc
import pickle
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from spark_dlobd.estimators import scoring
from spark_dlobd.job.columns import TensorColumn
from spark_dlobd.job.network import Network, OutputSpec
from spark_dlobd.processes import worker_interpreter
from spark_dlobd.training.keras_codec import model_to_archive

PLAN = scoring.ScoringPlan(
    digest="0",
    inputs=(TensorColumn("x", "float32", (3,)),),
    outputs=(OutputSpec("regression", 1),),
    fields=(scoring.Field(0, "prediction"),),
    batch_size=8,
    threads=1,
    thresholds=None,
    handle_invalid="error",
)


@pytest.fixture(autouse=True)
def new_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(scoring, "_networks", OrderedDict())
    yield
    gc.unfreeze()


@pytest.fixture
def payload() -> Any:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    return SimpleNamespace(value=scoring.network_payload(Network(model_to_archive(model)))[0])


def test_the_collection_after_a_task_skips_the_network(payload: Any) -> None:
    network = scoring.network_of(PLAN, payload)
    assert scoring.network_of(PLAN, payload) is network
    assert network([np.ones((2, 3), np.float32)])[0].shape == (2, 1)
    assert gc.get_freeze_count() > 100_000
    assert len(gc.get_objects()) < 20_000


def test_the_memory_of_a_network_that_is_no_longer_kept_is_given_back(payload: Any) -> None:
    first = weakref.ref(scoring.network_of(PLAN, payload))
    for number in range(1, 5):
        assert first() is not None
        scoring.network_of(replace(PLAN, digest=str(number)), payload)
    assert first() is None


def failure(payload: Any, rows: list[Any], version: str | None = None) -> str:
    batches = iter([(pd.Series(rows),)])
    (frame,) = scoring.score_batches(batches, PLAN, payload, version)
    assert list(frame) == scoring.result_type(PLAN).names == ["failure", "prediction_of_0"]
    assert len(frame) == len(rows)
    assert frame["prediction_of_0"].isna().all()
    (text,) = set(frame["failure"])
    return str(text)


def test_invalid_rows_are_told_as_data(payload: Any) -> None:
    text = failure(payload, [np.ones(3), np.ones(2)])
    assert text.splitlines()[:2] == [
        "DataError: 1 of 2 rows of this batch is not valid:",
        "  'x' (features): 1 wrong length (expected 3 elements for shape (3,), seen 2)",
    ]
    assert "Traceback" not in text


def test_tensorflow_that_is_missing_on_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'tensorflow'")

    monkeypatch.setattr(scoring, "import_tensorflow", fail)
    text = failure(SimpleNamespace(value=pickle.dumps((b"", {}))), [np.ones(3)])
    start = "ConfigurationError: Python workers lack a package: No module named 'tensorflow'."
    assert text.startswith(start)
    assert "Traceback" not in text


def test_memory_that_is_used_up_names_the_setting(
    payload: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(scoring, "encode_rows", fail)
    first, *others = failure(payload, [np.ones(3)]).splitlines()
    assert first.startswith("ModelError: Scoring failed on ")
    assert "Out of memory: lower predictBatchSize, which is 8. MemoryError" in first
    assert "Traceback (most recent call last):" in others


def test_a_worker_with_another_version_does_not_score(
    payload: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_interpreter, "installed_version", lambda: "1.0")
    text = failure(payload, [np.ones(3)], version="2.0")
    assert text.startswith("WorkersDisagreeError: Python workers have spark_dlobd 1.0")
