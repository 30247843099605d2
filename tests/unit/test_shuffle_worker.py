"""What a Python worker keeps from task to task, and that it lets go of it."""

from __future__ import annotations

import gc
import weakref
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest

from spark_dlobd.backends.shuffle.stages import worker
from tests.unit.shuffle_group import Group, job, network, rows


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A task of a worker that has done nothing yet."""
    group = Group(tmp_path / "group", job(network(), "adam", 2), rows(tmp_path / "rows"))
    monkeypatch.setattr(worker, "_tools", OrderedDict())
    return group.task(0, 1)


def test_a_model_is_built_once_a_fit_and_two_fits_are_kept(task: Any) -> None:
    first = worker.tools_of(task)
    assert worker.tools_of(task) is first
    assert first.replica is first.replica
    assert first.optimizer(1) is first.optimizer(1) is not first.optimizer(0)
    for run_id in ("second", "third"):
        worker.tools_of(replace(task, run_id=run_id))
    assert list(worker._tools) == ["second", "third"]
    assert worker.tools_of(task) is not first


def test_tasks_of_several_fits_keep_the_latest(task: Any) -> None:
    for run_id in ("first", "second", "first", "third"):
        worker.tools_of(replace(task, run_id=run_id))
    assert list(worker._tools) == ["first", "third"]


def test_a_forgotten_model_is_collected(task: Any) -> None:
    tools = worker.tools_of(task)
    other = worker.tools_of(replace(task, run_id="other"))
    for each in (tools, other):
        each.replica.step(0, 0, 0)
        each.settle()
    model = weakref.ref(tools.replica.model)
    del tools, each
    worker.forget(task.run_id)
    worker.forget(task.run_id)
    assert model() is None
    last = weakref.ref(other.replica.model)
    del other
    worker.forget("other")
    assert last() is None
    # TensorFlow stays in the process, and tasks of others would look through it each time
    assert gc.get_freeze_count() > 100_000
    assert len(gc.get_objects()) < 20_000


def test_what_was_broadcast_is_read_once(task: Any) -> None:
    reads = []

    class Broadcast:
        @property
        def value(self) -> bytes:
            reads.append(1)
            return cloudpickle.dumps(SimpleNamespace(slices=None))

    for _ in range(3):
        worker.tools_of(replace(task, payload=Broadcast()))
    assert len(reads) == 1
