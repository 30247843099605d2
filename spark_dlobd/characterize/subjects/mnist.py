"""MNIST from a folder of idx files or Keras's download."""

from __future__ import annotations

import gzip
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.errors import DataError

Bytes = NDArray[np.uint8]
Split = tuple[Bytes, Bytes]
Mnist = tuple[Split, Split]

FILES = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
# Digits 0 to 9 in the published train and test sets.
LABEL_COUNTS = (
    (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
)


def load_mnist(path: str | os.PathLike[str] | None = None, download: bool = False) -> Mnist:
    """Return ``(x_train, y_train), (x_test, y_test)``. Runs on the driver.

    Parameters
    ----------
    path : path-like, optional
        A folder with the four idx files, plain or ``.gz``; nothing else is tried
        when it is given. By default Keras's downloaded ``mnist.npz``.
    download : bool, default False
        Without a `path`: let Keras download the data if it has not done so before.

    Returns
    -------
    tuple
        Images ``(60000, 28, 28)`` and ``(10000, 28, 28)``, labels ``(60000,)`` and
        ``(10000,)``, all uint8.

    Raises
    ------
    DataError
        If a file is missing or damaged, or there is no data to be had.
    """
    if path is not None:
        return read_folder(Path(path))
    keras_file = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"), "datasets/mnist.npz")
    if keras_file.is_file():
        mnist, source = read_npz(keras_file), str(keras_file)
    elif download:
        mnist, source = _from_keras(), "Keras's download"
    else:
        raise DataError(f"MNIST is not on this machine: there is no {keras_file}. {_ways()}")
    check_published(mnist, source)
    return mnist


def read_idx(path: Path) -> Bytes:
    """Read one idx file of unsigned bytes, plain or gzipped.

    The format is two zero bytes, the type code, the number of axes, one
    big-endian int32 per axis, then the values.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as handle:
            content = handle.read()
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError(f"{path} is not an idx file: it starts with {content[:4]!r}.")
    if content[2] != 0x08:
        raise DataError(f"{path} has type code {content[2]:#04x}, expected 0x08 (unsigned byte).")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise DataError(
            f"{path} ends within its header of {header} bytes. "
            "The file is cut off or damaged: delete it and fetch it again."
        )
    shape = tuple(int(extent) for extent in np.frombuffer(content[4:header], ">i4"))
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise DataError(
            f"{path} has {len(content)} bytes, its header {shape} asks for {expected}. "
            "The file is cut off or damaged: delete it and fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_folder(folder: Path) -> Mnist:
    """Read the four idx files of `folder`."""
    train, test = (_read_split(folder, images, labels) for images, labels in FILES)
    return train, test


def _read_split(folder: Path, images_name: str, labels_name: str) -> Split:
    images, labels = (read_idx(_find(folder, name)) for name in (images_name, labels_name))
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{images_name} {images.shape} and {labels_name} {labels.shape} in {folder} do not "
            "belong together. Expected (rows, height, width) and (rows,)."
        )
    if labels.size and labels.max() > 9:
        raise DataError(f"{folder / labels_name} holds label {labels.max()}, expected 0 to 9.")
    return images, labels


def _find(folder: Path, name: str) -> Path:
    candidates = (folder / name, folder / f"{name}.gz")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(f"Neither {candidates[0]} nor {candidates[1].name} exists. {_ways()}")


def read_npz(path: Path) -> Mnist:
    """Read the file that ``keras.datasets.mnist.load_data`` leaves behind."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
        return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is damaged ({error}). Delete it and run again. {_ways()}"
        ) from error


def check_published(mnist: Mnist, source: str) -> None:
    """Raise unless `mnist` has the shapes and label counts of the published sets."""
    for (images, labels), counts in zip(mnist, LABEL_COUNTS, strict=True):
        shape = (sum(counts), 28, 28)
        found = tuple(int(count) for count in np.bincount(labels, minlength=10))
        if images.shape != shape or found != counts:
            raise DataError(
                f"{source} holds images {images.shape} with label counts {found}, expected "
                f"{shape} with {counts}. Delete it and run again. {_ways()}"
            )


def _from_keras() -> Mnist:
    from keras.datasets import mnist

    try:
        train, test = mnist.load_data()
    # Keras raises what its network and archive code raises.
    except Exception as error:
        raise DataError(f"Keras could not load MNIST: {error}. {_ways()}") from error
    return train, test


def _ways() -> str:
    names = ", ".join(name for pair in FILES for name in pair)
    return (
        f"MNIST comes from a folder that holds {names} (plain or .gz), or from Keras's download: "
        "python -c 'import keras; keras.datasets.mnist.load_data()'. For speed alone take "
        "'generated-mnist'."
    )
