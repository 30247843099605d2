"""What a Python worker keeps of the networks that it scored with."""

from __future__ import annotations

import gc
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from spark_dlobd.estimators import scoring
from spark_dlobd.training.job import OutputSpec, TensorColumn
from spark_dlobd.training.keras_codec import model_to_archive

PLAN = scoring.ScoringPlan(
    digest="0",
    features=TensorColumn("x", "float32", (3,)),
    output=OutputSpec("regression", 1),
    fields=("prediction",),
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
    return SimpleNamespace(value=scoring.network_payload(model_to_archive(model), {})[0])


def test_the_collection_after_a_task_skips_the_network(payload: Any) -> None:
    network = scoring.network_of(PLAN, payload)
    assert scoring.network_of(PLAN, payload) is network
    assert network.call(np.ones((2, 3), np.float32)).shape == (2, 1)
    assert gc.get_freeze_count() > 100_000
    assert len(gc.get_objects()) < 20_000


def test_the_memory_of_a_network_that_is_no_longer_kept_is_given_back(payload: Any) -> None:
    first = weakref.ref(scoring.network_of(PLAN, payload))
    for number in range(1, 5):
        assert first() is not None
        scoring.network_of(replace(PLAN, digest=str(number)), payload)
    assert first() is None
