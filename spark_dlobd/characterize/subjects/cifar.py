"""CIFAR-10 from its binary files or Keras's download."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.errors import DataError

Bytes = NDArray[np.uint8]
Split = tuple[Bytes, Bytes]

SHAPE = (32, 32, 3)
RECORD_BYTES = 1 + 3 * 32 * 32
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILES = ("test_batch.bin",)
_KERAS_FILES = ("cifar-10-batches-py", "cifar-10-batches-py-target", "cifar-10-batches-py.tar.gz")


def load_cifar10(
    path: str | os.PathLike[str] | None = None, download: bool = False
) -> tuple[Split, Split]:
    """Return ``(x_train, y_train), (x_test, y_test)`` of CIFAR-10. Runs on the driver.

    Parameters
    ----------
    path : path-like, optional
        The folder with ``data_batch_1.bin`` to ``data_batch_5.bin`` and
        ``test_batch.bin``; nothing else is tried when it is given.
    download : bool, default False
        Without a `path`: let Keras download the data if it has not done so before.

    Returns
    -------
    tuple
        Images ``(rows, 32, 32, 3)`` and labels ``(rows,)``, all uint8.

    Raises
    ------
    DataError
        If a file is missing or damaged, or there is no data to be had.
    """
    if path is not None:
        return read_folder(Path(path))
    cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"), "datasets")
    if not download and not any((cache / name).exists() for name in _KERAS_FILES):
        raise DataError(f"CIFAR-10 is not on this machine: {cache} does not hold it. {_ways()}")
    return _from_keras()


def read_folder(folder: Path) -> tuple[Split, Split]:
    """Read the six binary files of `folder`."""
    train, test = (
        [read_file(_existing(folder, name)) for name in names]
        for names in (TRAIN_FILES, TEST_FILES)
    )
    return _joined(train), _joined(test)


def read_file(path: Path) -> Split:
    """Read images ``(rows, 32, 32, 3)`` and labels ``(rows,)`` of one binary file.

    A record is the label and then 1,024 bytes each of red, green and blue, row by
    row (https://www.cs.toronto.edu/~kriz/cifar.html).
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if content.size == 0 or content.size % RECORD_BYTES:
        raise DataError(
            f"{path} has {content.size:,} bytes, expected a multiple of {RECORD_BYTES:,}: a label "
            "and 3 x 32 x 32 colours an image. The file is cut off, or it is not CIFAR-10's "
            "binary version."
        )
    records = content.reshape(-1, RECORD_BYTES)
    labels = np.ascontiguousarray(records[:, 0])
    if labels.max() > 9:
        raise DataError(f"{path} holds label {labels.max()}, expected 0 to 9.")
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise DataError(f"{path} does not exist. {_ways()}")
    return path


def _joined(parts: list[Split]) -> Split:
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _from_keras() -> tuple[Split, Split]:
    from keras.datasets import cifar10

    try:
        train, test = cifar10.load_data()
    # Keras raises what its network, archive and pickle code raises.
    except Exception as error:
        raise DataError(f"Keras could not load CIFAR-10: {error}. {_ways()}") from error
    return _flat(train), _flat(test)


def _flat(split: tuple[Any, Any]) -> Split:
    images, labels = split
    return np.asarray(images, np.uint8), np.asarray(labels, np.uint8).reshape(-1)


def _ways() -> str:
    return (
        "CIFAR-10 comes from a folder that holds "
        f"{', '.join(TRAIN_FILES + TEST_FILES)} (the binary version of "
        "https://www.cs.toronto.edu/~kriz/cifar.html), or from Keras's download: python -c "
        "'import keras; keras.datasets.cifar10.load_data()'. For speed alone take "
        "'generated-cifar10'."
    )
