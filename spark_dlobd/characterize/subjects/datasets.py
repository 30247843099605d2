"""Data sets of the characterization by name, as Spark DataFrames with a description."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from spark_dlobd.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

__all__ = [
    "Dataset",
    "DatasetDescription",
    "DatasetEntry",
    "dataset_names",
    "get_dataset",
    "load_dataset",
]

FEATURES, LABEL = "image", "label"


@dataclass(frozen=True)
class DatasetDescription:
    """What a result says about its data.

    Attributes
    ----------
    name : str
        Name in a sweep; generated data have ``generated`` in it.
    title : str
        Name in figures and tables; generated data are called so here too.
    rows, test_rows : int
        Images to train on and to test with.
    shape : tuple of int
        ``(height, width, channels)``, one byte an element.
    classes : int
        Labels are ``0 .. classes - 1``.
    generated : bool
        Whether the images were drawn by a program.
    source : str
        Where they came from, in words.
    """

    name: str
    title: str
    rows: int
    test_rows: int
    shape: tuple[int, int, int]
    classes: int
    generated: bool
    source: str

    def to_json(self) -> dict[str, Any]:
        """Return a dict for a result record."""
        return asdict(self)


@dataclass(frozen=True)
class Dataset:
    """Rows to train on, rows to test with, and what they are.

    Both DataFrames have ``image``, binary of ``height * width * channels`` bytes, row
    by row and colour by colour within a pixel, and ``label``, an int.
    """

    train: DataFrame
    test: DataFrame
    description: DatasetDescription


@dataclass(frozen=True)
class DatasetEntry:
    """A data set that can be named in a sweep.

    Attributes
    ----------
    name, title, shape, classes, generated
        As in `DatasetDescription`.
    rows, test_rows : int or None
        Full size; None where the folder decides.
    path : {"none", "optional", "required"}
        Whether it is read from a path that the user gives.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    classes: int
    rows: int | None
    test_rows: int | None
    path: str
    generated: bool = False


_MNIST, _CIFAR, _IMAGENET = (28, 28, 1), (32, 32, 3), (256, 256, 3)
_DATASETS = {
    entry.name: entry
    for entry in (
        DatasetEntry("mnist", "MNIST", _MNIST, 10, 60_000, 10_000, "optional"),
        DatasetEntry("cifar10", "CIFAR-10", _CIFAR, 10, 50_000, 10_000, "optional"),
        DatasetEntry("imagenet", "ImageNet, ten classes", _IMAGENET, 10, None, None, "required"),
        DatasetEntry(
            "generated-mnist", "generated, MNIST's shape", _MNIST, 10, 60_000, 10_000, "none", True
        ),
        DatasetEntry(
            "generated-cifar10", "generated, CIFAR-10's shape", _CIFAR, 10, 50_000, 10_000, "none",
            True,
        ),
        DatasetEntry(
            "generated-imagenet", "generated, ImageNet's shape", _IMAGENET, 10, 13_000, 500,
            "none", True,
        ),
    )
}  # fmt: skip


def dataset_names() -> tuple[str, ...]:
    """Names of all data sets."""
    return tuple(_DATASETS)


def get_dataset(name: str) -> DatasetEntry:
    """Return what is known about a data set.

    Raises
    ------
    ConfigurationError
        If there is no such data set; the message lists the names.
    """
    if name not in _DATASETS:
        raise ConfigurationError(
            f"data must be one of {', '.join(map(repr, _DATASETS))}. Got {name!r}."
        )
    return _DATASETS[name]


def load_dataset(
    spark: SparkSession,
    name: str,
    *,
    path: str | os.PathLike[str] | None = None,
    rows: int | None = None,
    test_rows: int | None = None,
    partitions: int | None = None,
    seed: int = 0,
    download: bool = False,
) -> Dataset:
    """Return a data set by name. Runs on the driver.

    Parameters
    ----------
    spark : SparkSession
        Where the DataFrames live.
    name : str
        One of `dataset_names`.
    path : path-like, optional
        Where the files are. MNIST and CIFAR-10 are read by the driver; a folder of
        images is read by the executors, which all have to reach it.
    rows, test_rows : int, optional
        The first so many rows only; of generated data any number.
    partitions : int, optional
        Of each DataFrame; default is Spark's parallelism.
    seed : int, default 0
        Of generated data.
    download : bool, default False
        Let Keras download MNIST or CIFAR-10 if it has not done so before.

    Raises
    ------
    ConfigurationError
        If the name is unknown or the path is missing or not wanted.
    DataError
        If files are missing or damaged.

    Examples
    --------
    >>> data = load_dataset(spark, "generated-mnist", rows=1000)  # doctest: +SKIP
    >>> data.description.title  # doctest: +SKIP
    "generated, MNIST's shape"
    """
    entry = get_dataset(name)
    check_path(entry, path)
    for argument, value in (("rows", rows), ("test_rows", test_rows), ("partitions", partitions)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{argument} must be None or at least 1. Got {value!r}.")
    request = _Request(
        spark, entry, path, rows, test_rows,
        partitions or spark.sparkContext.defaultParallelism, seed, download,
    )  # fmt: skip
    return _LOADERS.get(name, _generated)(request)


def check_path(entry: DatasetEntry, path: str | os.PathLike[str] | None) -> None:
    """Raise if a path is missing, not wanted or not there."""
    if path is None:
        if entry.path == "required":
            raise ConfigurationError(
                f"data {entry.name!r} needs the path of a folder with one directory of images a "
                f"class. Give it, or take 'generated-{entry.name}'."
            )
        return
    if entry.path == "none":
        raise ConfigurationError(f"data {entry.name!r} takes no path. Got {str(path)!r}.")
    if not os.path.isdir(path):
        raise ConfigurationError(f"The path of data {entry.name!r} is not a folder: {str(path)!r}.")


@dataclass(frozen=True)
class _Request:
    spark: SparkSession
    entry: DatasetEntry
    path: str | os.PathLike[str] | None
    rows: int | None
    test_rows: int | None
    partitions: int
    seed: int
    download: bool

    def dataset(self, frames: Sequence[DataFrame], counts: Sequence[int], source: str) -> Dataset:
        """Training rows come first in `frames` and `counts`."""
        entry = self.entry
        description = DatasetDescription(
            name=entry.name,
            title=entry.title,
            rows=counts[0],
            test_rows=counts[1],
            shape=entry.shape,
            classes=entry.classes,
            generated=entry.generated,
            source=source,
        )
        return Dataset(frames[0], frames[1], description)


def _mnist(request: _Request) -> Dataset:
    from spark_dlobd.characterize.subjects.mnist import load_mnist

    source = f"idx files in {request.path}" if request.path else "Keras's download"
    return _of_arrays(request, load_mnist(request.path, request.download), source)


def _cifar10(request: _Request) -> Dataset:
    from spark_dlobd.characterize.subjects.cifar import load_cifar10

    source = f"binary files in {request.path}" if request.path else "Keras's download"
    return _of_arrays(request, load_cifar10(request.path, request.download), source)


def _of_arrays(request: _Request, splits: tuple[Any, Any], source: str) -> Dataset:
    from spark_dlobd.characterize.subjects.frames import frame_of_arrays
    from spark_dlobd.errors import DataError

    frames, counts = [], []
    for (images, labels), rows in zip(splits, (request.rows, request.test_rows), strict=True):
        height, width, _ = request.entry.shape
        if images.shape[1:3] != (height, width):
            raise DataError(
                f"{source}: images are {images.shape[1:3]}, expected {(height, width)}."
            )
        part: NDArray[Any] = images[:rows]
        counts.append(len(part))
        frames.append(frame_of_arrays(request.spark, part, labels[:rows], request.partitions))
    return request.dataset(frames, counts, source)


def _imagenet(request: _Request) -> Dataset:
    from spark_dlobd.characterize.subjects.folder import scan_folder
    from spark_dlobd.characterize.subjects.frames import frame_of_files

    assert request.path is not None
    entry = request.entry
    found = scan_folder(request.path, entry.classes)
    parts = [
        _spread(files, rows)
        for files, rows in ((found.train, request.rows), (found.test, request.test_rows))
    ]
    frames = [
        frame_of_files(request.spark, files, entry.shape, request.partitions) for files in parts
    ]
    source = f"{', '.join(found.class_names)} in {request.path}"
    return request.dataset(frames, [len(files) for files in parts], source)


def _spread(files: list[tuple[str, int]], rows: int | None) -> list[tuple[str, int]]:
    """At most `rows` files, evenly over the list, so that all classes stay in."""
    if rows is None or rows >= len(files):
        return files
    return [files[index * len(files) // rows] for index in range(rows)]


def _generated(request: _Request) -> Dataset:
    from spark_dlobd.characterize.subjects.generated import generated_frame

    entry = request.entry
    assert entry.rows is not None and entry.test_rows is not None
    counts = (request.rows or entry.rows, request.test_rows or entry.test_rows)
    frames = [
        generated_frame(
            request.spark, rows, entry.shape, entry.classes, request.partitions, request.seed, test
        )
        for rows, test in zip(counts, (False, True), strict=True)
    ]
    source = f"drawn by a program from seed {request.seed}: a pattern a class, blended, with noise"
    return request.dataset(frames, counts, source)


_LOADERS: dict[str, Callable[[_Request], Dataset]] = {
    "mnist": _mnist,
    "cifar10": _cifar10,
    "imagenet": _imagenet,
}
