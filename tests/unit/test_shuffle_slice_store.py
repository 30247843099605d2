"""The state of slices as files of their executor."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from spark_dlobd.backends.shuffle.slices.store import SliceStore
from spark_dlobd.backends.shuffle.wire.messages import Message


def state(value: float) -> Message:
    return Message({"kind": "slice", "source": 0}, {"master": np.float32([value])})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SliceStore:
    monkeypatch.setenv("SPARK_LOCAL_DIRS", f"{tmp_path},/elsewhere")
    return SliceStore("run")


def value(store: SliceStore, step: int) -> float | None:
    found = store.read(0, 0, step)
    return None if found is None else float(found.arrays["master"][0])


def test_keeps_the_version_that_a_repeated_task_needs(store: SliceStore) -> None:
    for step in (1, 2, 3):
        store.write(0, 0, step, state(step))
    assert [value(store, step) for step in (1, 2, 3)] == [None, 2.0, 3.0]


def test_only_the_own_user_can_read_it(store: SliceStore) -> None:
    store.write(0, 0, 1, state(1.0))
    assert store.folder.stat().st_mode & 0o777 == 0o700


def test_task_that_was_overtaken_takes_nothing_away(store: SliceStore) -> None:
    store.write(0, 0, 5, state(5.0))
    store.write(0, 0, 2, state(2.0))
    assert value(store, 5) == 5.0


def test_slices_of_other_owners_stay(store: SliceStore) -> None:
    store.write(1, 0, 1, state(1.0))
    store.write(0, 0, 7, state(7.0))
    assert store.read(1, 0, 1) is not None


def test_remove_leaves_nothing(store: SliceStore, tmp_path: Path) -> None:
    store.write(0, 0, 1, state(1.0))
    store.remove()
    store.remove()
    assert list(tmp_path.rglob("run*")) == []


def test_tasks_of_one_host_remove_it_at_the_same_time(store: SliceStore, tmp_path: Path) -> None:
    folder = tmp_path / "spark-dlobd-slices" / "run"
    folder.mkdir(parents=True)
    for number in range(3000):
        (folder / str(number)).touch()
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(store.remove) for _ in range(4)]:
            done.result(timeout=30)
    assert not folder.exists()
