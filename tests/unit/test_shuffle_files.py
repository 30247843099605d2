"""Checkpoints and slices on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spark_dlobd.backends.shuffle.slices import checkpoint
from spark_dlobd.backends.shuffle.slices.checkpoint import CheckpointStore
from spark_dlobd.backends.shuffle.slices.store import SliceStore
from spark_dlobd.backends.shuffle.wire.messages import Message


def message(source: int = 0, **arrays: Any) -> Message:
    return Message({"kind": "test", "source": source}, arrays)


def store(folder: Path) -> CheckpointStore:
    return CheckpointStore(folder.as_uri())


def values(found: Message) -> list[float]:
    return list(found.arrays["values"])


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    for index in range(3):
        checkpoints.write(1, 20, "weights", index, message(index, values=np.full(2, index)))
    found = checkpoints.read_all(1, 20, "weights", 3)
    assert [values(one) for one in found] == [[0, 0], [1, 1], [2, 2]]
    assert values(checkpoints.read(1, 20, "weights", 1)) == [1, 1]
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*-*/*"))
    assert files == [f"00001-00000020/weights-0000{index}" for index in range(3)]
    checkpoints.remove(1, 20)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_part_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store(tmp_path).read(0, 0, "weights", 0)


class HdfsLike:
    """A local file system that does not rename onto a file, as HDFS and others."""

    def __init__(self) -> None:
        from pyarrow import fs

        self._system = fs.LocalFileSystem()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._system, name)

    def move(self, source: str, target: str) -> None:
        if Path(target).exists():
            raise OSError(f"rename from {source} to {target}: destination exists")
        self._system.move(source, target)


@pytest.fixture
def hdfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        checkpoint, "arrow_file_system", lambda url: (HdfsLike(), url.removeprefix("file://"))
    )


@pytest.mark.usefixtures("hdfs")
def test_a_repeated_task_leaves_what_the_first_one_wrote(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    for _ in range(2):
        checkpoints.write(0, 0, "weights", 0, message(values=np.ones(1)))
    assert values(checkpoints.read(0, 0, "weights", 0)) == [1.0]
    assert [path.name for path in (tmp_path / "00000-00000000").iterdir()] == ["weights-00000"]


@pytest.mark.parametrize("system", ["local", "hdfs"])
def test_what_the_driver_changed_replaces_what_was_there(
    tmp_path: Path, system: str, request: pytest.FixtureRequest
) -> None:
    if system == "hdfs":
        request.getfixturevalue("hdfs")
    checkpoints = store(tmp_path)
    checkpoints.write(0, 0, "weights", 0, message(values=np.ones(1)))
    checkpoints.write(0, 0, "weights", 0, message(values=np.zeros(1)), replace=True)
    assert values(checkpoints.read(0, 0, "weights", 0)) == [0.0]
    assert len(list((tmp_path / "00000-00000000").iterdir())) == 1


def test_a_rename_that_fails_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(HdfsLike):
        def move(self, source: str, target: str) -> None:
            raise OSError("no space left on device")

    monkeypatch.setattr(
        checkpoint, "arrow_file_system", lambda url: (Full(), url.removeprefix("file://"))
    )
    with pytest.raises(OSError, match="no space left"):
        store(tmp_path).write(0, 0, "weights", 0, message(values=np.ones(1)))
    assert list((tmp_path / "00000-00000000").iterdir()) == []


@pytest.fixture
def slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SliceStore:
    monkeypatch.setenv("SPARK_LOCAL_DIRS", f"{tmp_path / 'first'},{tmp_path / 'second'}")
    return SliceStore("run")


def test_the_last_two_versions_are_kept(slices: SliceStore, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        slices.write(0, 4, step, message(values=np.full(1, step)))
        slices.write(1, 4, step, message(values=np.full(1, -step)))
    found = [slices.read(0, 4, step) for step in (1, 2, 3)]
    assert found[0] is None
    assert [values(one) for one in found if one is not None] == [[2], [3]]
    names = sorted(path.name for path in (tmp_path / "first").rglob("0*-*-*"))
    assert names == [f"0000{index}-00004-0000000{step}" for index in (0, 1) for step in (2, 3)]


def test_an_epoch_forgets_the_one_before(slices: SliceStore, tmp_path: Path) -> None:
    slices.write(0, 0, 9, message(values=np.ones(1)))
    slices.write(0, 1, 1, message(values=np.ones(1)))
    assert slices.read(0, 0, 9) is None
    assert slices.read(0, 1, 1) is not None


def test_a_host_lets_go_of_a_fit_and_only_of_that(slices: SliceStore, tmp_path: Path) -> None:
    slices.write(0, 0, 1, message(values=np.ones(1)))
    other = SliceStore("other")
    other.write(0, 0, 1, message(values=np.ones(1)))
    slices.remove()
    slices.remove()
    assert slices.read(0, 0, 1) is None
    assert other.read(0, 0, 1) is not None
    other.remove()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
