"""Rows that cannot teach anything are found before a worker starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_dlobd.data import effect
from spark_dlobd.data.effect import check_effect
from spark_dlobd.errors import DataError
from spark_dlobd.job.columns import ColumnSpec, TensorColumn
from spark_dlobd.job.dataset import DatasetRef, RowGroup


def written(
    folder: Path,
    files: list[tuple[list[int], list[float] | None]],
    validation: int = 0,
    one_hot: bool = False,
) -> DatasetRef:
    """Files of labels and weights as `materialize` lays them out; the last ones validate."""
    groups = []
    for index, (labels, weights) in enumerate(files):
        hot = [row.tobytes() for row in np.eye(3, dtype="float32")[labels]]
        table = {"label": pa.array(hot if one_hot else np.array(labels, "int32"))}
        if weights is not None:
            table["weight"] = pa.array(np.array(weights, "float32"))
        path = folder / f"part-{index}.parquet"
        pq.write_table(pa.table(table), path)
        groups.append(RowGroup(path.as_uri(), len(labels)))
    columns = ColumnSpec.of(
        TensorColumn("x", "float32", (2,)),
        TensorColumn("y", "float32", (3,)) if one_hot else TensorColumn("y", "int32", (), 3),
        None if files[0][1] is None else TensorColumn("w", "float32", ()),
    )
    train = len(groups) - validation
    return DatasetRef(folder.as_uri(), columns, tuple(groups[:train]), tuple(groups[train:]))


def test_all_weights_zero(tmp_path: Path) -> None:
    data = written(tmp_path, [([0, 1], [0, 0]), ([2], [0])])
    message = (
        r"All 3 training rows have weight 0, by weight column 'w': nothing would be learned and "
        r"the loss would be 0\. Give some rows a weight above 0, or leave weightCol out\."
    )
    with pytest.raises(DataError, match=message):
        check_effect(data, None, classes=[True])


def test_one_weight_above_zero_is_enough(tmp_path: Path) -> None:
    data = written(tmp_path, [([0, 1], [0, 0]), ([2], [0.5])])
    assert check_effect(data, None, classes=[True]) == []


def test_validation_rows_without_weight(tmp_path: Path) -> None:
    data = written(tmp_path, [([0, 1], [1, 1]), ([2], [0])], validation=1)
    with pytest.raises(DataError, match=r"All 1 validation rows .*'w': val_loss would be 0"):
        check_effect(data, None, classes=[True])


@pytest.mark.parametrize("one_hot", [False, True])
def test_class_weights_that_leave_out_all_classes_that_are_there(
    tmp_path: Path, one_hot: bool
) -> None:
    data = written(tmp_path, [([2, 0], None), ([2, 2], None)], one_hot=one_hot)
    message = (
        r"All 4 training .*by classWeight=\{0: 0.0, 2: 0.0\} \(label column 'y' holds only 0, 2"
    )
    with pytest.raises(DataError, match=message):
        check_effect(data, {0: 0.0, 2: 0.0}, classes=[True])
    assert check_effect(data, {0: 0.0, 1: 0.0}, classes=[True]) == []
    assert check_effect(data, {0: 0.0}, classes=[True]) == []


def test_class_weights_and_row_weights_that_leave_nothing_together(tmp_path: Path) -> None:
    data = written(tmp_path, [([0, 1], [3, 0])])
    assert check_effect(data, {1: 0.0}, classes=[True]) == []
    with pytest.raises(DataError, match=r"All 2 .*by weight column 'w' and classWeight=\{0: 0.0\}"):
        check_effect(data, {0: 0.0}, classes=[True])


def test_validation_rows_do_not_take_class_weights(tmp_path: Path) -> None:
    data = written(tmp_path, [([0, 1], [1, 1]), ([2], [1])], validation=1)
    assert check_effect(data, {2: 0.0}, classes=[True]) == []


@pytest.mark.parametrize("one_hot", [False, True])
def test_one_class_only_is_a_warning(tmp_path: Path, one_hot: bool) -> None:
    data = written(tmp_path, [([2, 2], None), ([2], None)], one_hot=one_hot)
    [warning] = check_effect(data, None, classes=[True])
    assert warning.startswith("All 3 training rows have the class 2 in label column 'y'")
    assert check_effect(data, None, classes=[False]) == []


def test_no_file_is_read_after_the_answer_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = written(tmp_path, [([0, 1], [1, 0]), ([2], [0]), ([2], [1])], validation=1)
    read: list[str] = []
    column = effect._column

    def counted(group: RowGroup, of: DatasetRef, spec: TensorColumn) -> Any:
        read.append(f"{of.columns.stored_name(spec)} {Path(group.url).stem}")
        return column(group, of, spec)

    monkeypatch.setattr(effect, "_column", counted)
    assert check_effect(data, None, classes=[True]) == []
    assert read == ["weight part-0", "weight part-2", "label part-0"]
