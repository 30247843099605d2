from __future__ import annotations

import gzip
import struct
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


def test_missing_file_names_both_ways(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"folder that holds train-.*Keras's download: python -c"):
        mnist.load_mnist(tmp_path)


@pytest.fixture
def bare_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path


@pytest.mark.usefixtures("bare_home")
def test_mnist_is_not_downloaded_unasked() -> None:
    with pytest.raises(DataError, match=r"no .*mnist\.npz.*folder that holds.*Keras's download"):
        mnist.load_mnist()


@pytest.mark.usefixtures("bare_home")
def test_failed_download_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    def unreachable() -> None:
        raise OSError("URL fetch failure")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", unreachable)
    with pytest.raises(DataError, match=r"could not load MNIST: URL fetch failure.*comes from"):
        mnist.load_mnist(download=True)


@pytest.mark.usefixtures("bare_home")
def test_a_download_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    split = np.zeros((2, 28, 28), np.uint8), np.array([1, 1], np.uint8)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: (split, split))
    with pytest.raises(DataError, match=r"Keras's download holds images \(2, 28, 28\)"):
        mnist.load_mnist(download=True)


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
