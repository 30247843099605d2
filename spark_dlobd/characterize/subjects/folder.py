"""An ImageNet-style folder: one directory a class, JPEG and PNG files inside."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from spark_dlobd.errors import DataError

SUFFIXES = (".jpeg", ".jpg", ".png")
_TRAIN, _TEST = ("train",), ("val", "test", "validation")
_EVERY = 5

Files = list[tuple[str, int]]


@dataclass(frozen=True)
class ImageFolder:
    """What a folder holds.

    Attributes
    ----------
    class_names : tuple of str
        Directory names in order; the index is the label.
    train, test : list of (str, int)
        Absolute path and label of every image.
    """

    class_names: tuple[str, ...]
    train: Files
    test: Files


def scan_folder(path: str | os.PathLike[str], classes: int) -> ImageFolder:
    """List the images of the first `classes` class directories. Runs on the driver.

    Parameters
    ----------
    path : path-like
        Either holds ``train`` and ``val`` (or ``test``) with the class directories, or
        the class directories themselves; then every fifth image of a class is for
        testing. No image is opened.
    classes : int
        How many classes to take, in the order of their names.

    Raises
    ------
    DataError
        If there are too few class directories or a class has no image.
    """
    root = Path(path).absolute()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. {_expected(classes)}")
    train_root, test_root = _child(root, _TRAIN), _child(root, _TEST)
    if train_root is None:
        names = _class_names(root, classes)
        every = _files(root, names)
        test = [file for files in every for file in files[_EVERY - 1 :: _EVERY]]
        taken = set(test)
        return ImageFolder(names, [f for files in every for f in files if f not in taken], test)
    if test_root is None:
        raise DataError(f"{root} holds 'train' but no 'val' or 'test'. {_expected(classes)}")
    names = _class_names(train_root, classes)
    train, test = (_flat(_files(folder, names)) for folder in (train_root, test_root))
    return ImageFolder(names, train, test)


def _child(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _class_names(root: Path, classes: int) -> tuple[str, ...]:
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if len(names) < classes:
        raise DataError(f"{root} holds {len(names)} class directories. {_expected(classes)}")
    return tuple(names[:classes])


def _files(root: Path, names: tuple[str, ...]) -> list[Files]:
    return [_images(root / name, label) for label, name in enumerate(names)]


def _images(folder: Path, label: int) -> Files:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    images = [(str(file), label) for file in found if file.suffix.lower() in SUFFIXES]
    if not images:
        raise DataError(
            f"{folder} holds no image. Expected files that end in {', '.join(SUFFIXES)}."
        )
    return images


def _flat(parts: list[Files]) -> Files:
    return [file for part in parts for file in part]


def _expected(classes: int) -> str:
    return (
        f"Expected a folder with at least {classes} directories, one a class, that hold "
        f"{', '.join(SUFFIXES)} files; or 'train' and 'val' with such directories in each."
    )
