"""Whether materialized rows can teach anything: their weights and classes. Runs on the driver.

Files are read one after the other, and only until the answer is known: with usual data that
is one column or two of the first file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.data.storage import arrow_file_system
from spark_dlobd.errors import DataError
from spark_dlobd.job.columns import TensorColumn
from spark_dlobd.job.dataset import DatasetRef, RowGroup, Split


def check_effect(
    data: DatasetRef, class_weight: Mapping[int, float] | None, *, classes: Sequence[bool]
) -> list[str]:
    """Refuse rows that all count nothing; return warnings about the others.

    Parameters
    ----------
    data : DatasetRef
        What `materialize` wrote.
    class_weight : mapping of int to float or None
        As the loss takes it: classes that are not named count 1. Validation rows do not
        take it.
    classes : sequence of bool
        Of each label, whether it is classes, as numbers or as one-hot rows.

    Raises
    ------
    DataError
        If the weights of all rows of a split are 0, naming the column.
    """
    spec = data.columns
    if class_weight:
        _check_weights(data, "train", spec.weights[0] if spec.weights else None, class_weight)
    for weight in spec.weights:
        if not class_weight:
            _check_weights(data, "train", weight, {})
        if data.validation:
            _check_weights(data, "validation", weight, {})
    found = zip(spec.labels, classes, strict=True)
    return [text for label, is_class in found if is_class and (text := _one_class(data, label))]


def _one_class(data: DatasetRef, label: TensorColumn) -> str | None:
    only = _only_class(data, label)
    if only is None:
        return None
    return (
        f"All {data.rows('train')} training rows have the class {only} in label column "
        f"'{label.name}': the network can only learn to always say it. Check the "
        "labels, and how the rows were selected."
    )


def _check_weights(
    data: DatasetRef,
    split: Split,
    weight: TensorColumn | None,
    class_weight: Mapping[int, float],
) -> None:
    present: set[int] = set()
    for group in data.row_groups(split):
        factors: Any = 1.0
        if class_weight:
            found = _classes(_column(group, data, data.columns.labels[0]))
            present.update(np.unique(found).tolist())
            factors = np.array([class_weight.get(k, 1.0) for k in range(int(found.max()) + 1)])
            factors = factors[found]
        if weight is not None:
            factors = factors * _column(group, data, weight)
        if np.any(factors != 0):
            return
    raise _no_effect(data, split, weight, class_weight, sorted(present))


def _no_effect(
    data: DatasetRef,
    split: Split,
    weight: TensorColumn | None,
    class_weight: Mapping[int, float],
    present: Sequence[int],
) -> DataError:
    label = data.columns.labels[0]
    causes, cures = [], []
    if weight is not None:
        causes.append(f"weight column '{weight.name}'")
        cures.append("Give some rows a weight above 0, or leave weightCol out.")
    if class_weight:
        listed = ", ".join(map(str, present))
        causes.append(
            f"classWeight={dict(class_weight)} (label column '{label.name}' holds only {listed})"
        )
        cures.append("Give a class that is there a classWeight above 0.")
    rows, effect = ("training", "nothing would be learned and the loss would be 0")
    if split == "validation":
        rows, effect = ("validation", "val_loss would be 0 whatever the network says")
    return DataError(
        f"All {data.rows(split)} {rows} rows have weight 0, by {' and '.join(causes)}: {effect}. "
        + " ".join(cures)
    )


def _only_class(data: DatasetRef, label: TensorColumn) -> int | None:
    """The class of all training rows; None if there are several."""
    first: int | None = None
    for found in _labels(data, label):
        first = int(found[0]) if first is None else first
        if np.any(found != first):
            return None
    return first


def _labels(data: DatasetRef, label: TensorColumn) -> Iterator[NDArray[Any]]:
    for group in data.train:
        yield _classes(_column(group, data, label))


def _classes(labels: NDArray[Any]) -> NDArray[Any]:
    """Class numbers of shape ``(rows,)``, of numbers or one-hot rows."""
    rows = labels.reshape(len(labels), -1)
    return (rows.argmax(axis=1) if rows.shape[1] > 1 else rows[:, 0]).astype(np.int64)


def _column(group: RowGroup, data: DatasetRef, column: TensorColumn) -> NDArray[Any]:
    """A stored column of one file, ``(rows, elements)``."""
    import pyarrow.parquet as pq

    name = data.columns.stored_name(column)

    system, path = arrow_file_system(group.url)
    with system.open_input_file(path) as file:
        stored = pq.ParquetFile(file).read(columns=[name]).column(0)
    if column.size == 1:
        return np.asarray(stored.to_numpy()).astype(column.dtype)
    little = np.dtype(column.dtype).newbyteorder("<")
    return np.frombuffer(b"".join(stored.to_pylist()), little).reshape(group.rows, column.size)
