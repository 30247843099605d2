"""Arrow batches to raw tensors: bytes and reasons checked by hand."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from spark_dlobd.data.checks import (
    INDICATOR,
    PROBLEMS,
    all_checks,
    invalid_rows_error,
    place_of,
)
from spark_dlobd.data.decode import decoded
from spark_dlobd.data.encode import encode_batches
from spark_dlobd.job.columns import ColumnSpec, TensorColumn, numpy_dtype

LABEL = TensorColumn("y", "int32", (), num_classes=3)
NAN, INF = float("nan"), float("inf")


def encode(features, label, column, label_column=LABEL, **more) -> pa.Table:
    weight = TensorColumn("w", "float32", ()) if "weight" in more else None
    batch = pa.RecordBatch.from_pydict({"features": features, "label": label, **more})
    spec = ColumnSpec.of(column, label_column, weight)
    return pa.Table.from_batches(list(encode_batches(iter([batch]), spec)))


def problems(table: pa.Table) -> list[set[str]]:
    names = ("features", "label", "weight", "validation")
    places = (*map(place_of, range(3)), INDICATOR)
    return [
        {
            f"{name}.{problem}"
            for name, (_, shift) in zip(names, places, strict=True)
            for j, problem in enumerate(PROBLEMS)
            if reason >> (shift + j) & 1
        }
        for reason in table["reason_0"].to_pylist()
    ]


def floats(*rows):
    return pa.array(rows, pa.list_(pa.float32()))


def classes(*rows):
    return pa.array(rows, pa.float64())


def test_bytes_of_arrays_are_little_endian_rows():
    table = encode(floats([1, 2], [3, 4]), classes(0, 2), TensorColumn("x", "float32", (2,)))
    assert table["features"].to_pylist() == [
        np.array(row, "<f4").tobytes() for row in ([1, 2], [3, 4])
    ]
    assert table["label"].to_pylist() == [0, 2]
    assert table["label"].type == pa.int32()
    assert problems(table) == [set(), set()]


def test_every_bad_array_is_named():
    rows = floats([1, 2], None, [1, None], [NAN, 1], [1, -INF], [1], [1, 2, 3], [], [5, 6])
    table = encode(rows, classes(*[0] * 9), TensorColumn("x", "float32", (2,)))
    assert problems(table) == [
        set(),
        {"features.null"},
        {"features.null_element"},
        {"features.not_finite"},
        {"features.not_finite"},
        {"features.length"},
        {"features.length"},
        {"features.length"},
        set(),
    ]
    assert table["length_features"].to_pylist() == [None] * 5 + [1, 3, 0, None]
    assert table["features"].to_pylist()[-1] == np.array([5, 6], "<f4").tobytes()


def test_every_bad_class_label_is_named():
    labels = classes(0, 2, None, NAN, INF, 0.5, -1, 3, 1e300)
    table = encode(floats(*[[1]] * 9), labels, TensorColumn("x", "float32", (1,)))
    assert problems(table) == [
        set(),
        set(),
        {"label.null"},
        {"label.not_finite"},
        {"label.not_finite"},
        {"label.not_integer"},
        {"label.range"},
        {"label.range"},
        {"label.range"},
    ]
    assert table["class_label"].to_pylist() == [None] * 6 + [-1, 3, 1e300]


def test_every_bad_weight_and_null_indicator_is_named():
    table = encode(
        floats(*[[1, 2]] * 7),
        classes(*[0] * 7),
        TensorColumn("x", "float32", (2,)),
        weight=pa.array([0, 0.5, -1, None, NAN, 1, 1], pa.float32()),
        validation=pa.array([1, 0, 1, 0, 1, None, -1], pa.int8()),
    )
    assert table["validation"].to_pylist()[:5] == [True, False, True, False, True]
    assert problems(table) == [
        set(),
        set(),
        {"weight.negative"},
        {"weight.null"},
        {"weight.not_finite"},
        {"validation.null"},
        {"validation.range"},
    ]


@pytest.mark.parametrize(
    ("kind", "dtype"), [(pa.int8(), "int8"), (pa.int16(), "int16"), (pa.int64(), "int64")]
)
def test_integers_keep_their_width(kind, dtype):
    rows = pa.array([[1, -2], [3, None], None], pa.list_(kind))
    table = encode(rows, classes(0, 0, 0), TensorColumn("x", dtype, (2,)))
    assert table["features"].to_pylist()[0] == np.array([1, -2], dtype).tobytes()
    assert problems(table) == [set(), {"features.null_element"}, {"features.null"}]


def test_whole_numbers_from_floats_and_decimals():
    ids = TensorColumn("x", "int64", (1,))
    table = encode(pa.array([2.0**53, 0.5, NAN, 2.0**63, None]), classes(*[0] * 5), ids)
    assert table["features"].to_pylist()[0] == 2**53
    assert problems(table) == [
        set(),
        {"features.not_integer"},
        {"features.not_finite"},
        {"features.range"},
        {"features.null"},
    ]
    lists = pa.array(
        [[Decimal(2**53 + 1)], [Decimal("0.5")], [None]], pa.list_(pa.decimal128(20, 1))
    )
    table = encode(lists, classes(0, 0, 0), ids)
    assert table["features"].to_pylist()[0] == 2**53 + 1
    assert problems(table) == [set(), {"features.not_integer"}, {"features.null_element"}]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "bool", "uint16", "uint64"])
def test_types_that_spark_has_no_number_of_are_bytes(dtype):
    column = TensorColumn("x", dtype, ())
    table = encode(pa.array([1, 0], pa.int32()), classes(0, 0), column)
    stored = np.array([1, 0], numpy_dtype(dtype))
    assert table["features"].to_pylist() == [value.tobytes() for value in stored]
    matrix = np.frombuffer(b"".join(table["features"].to_pylist()), np.uint8).reshape(2, -1)
    assert decoded(matrix, column).tolist() == [1, 0]


def test_images_pass_through_and_their_length_is_checked():
    rows = pa.array([b"\x00\x01\xfe\xff", b"abc", None], pa.binary())
    table = encode(rows, classes(0, 0, 0), TensorColumn("x", "uint8", (2, 2, 1)))
    assert table["features"].to_pylist()[0] == b"\x00\x01\xfe\xff"
    assert problems(table) == [set(), {"features.length"}, {"features.null"}]


def test_sliced_batches_give_their_own_rows():
    rows = floats([9, 9], [1, 2], [3, NAN], [5, 6]).slice(1)
    table = encode(rows, classes(7, 0, 1, 2).slice(1), TensorColumn("x", "float32", (2,)))
    assert table["features"].to_pylist()[2] == np.array([5, 6], "<f4").tobytes()
    assert problems(table) == [set(), {"features.not_finite"}, set()]
    images = pa.array([b"zz", b"ab", b"cd"], pa.binary()).slice(1)
    table = encode(images, classes(0, 1), TensorColumn("x", "uint8", (2,)))
    assert table["features"].to_pylist() == [b"ab", b"cd"]


def test_single_elements_are_stored_as_numbers():
    table = encode(
        pa.array([1.5, None, INF], pa.float32()), classes(0, 0, 0), TensorColumn("x", "float32", ())
    )
    assert table["features"].to_pylist()[0] == 1.5
    assert problems(table) == [set(), {"features.null"}, {"features.not_finite"}]
    table = encode(floats([4], [], [1, 2]), classes(0, 0, 0), TensorColumn("x", "float32", (1,)))
    assert table["features"].to_pylist()[0] == 4
    assert problems(table) == [set(), {"features.length"}, {"features.length"}]
    images = pa.array([b"\xff"], pa.binary())
    table = encode(images, classes(0), TensorColumn("x", "uint8", (1,)))
    assert table["features"].to_pylist() == [255]


def test_labels_of_several_outputs():
    label = TensorColumn("y", "float32", (2,))
    table = encode(floats([1], [1]), floats([1, 2], [1]), TensorColumn("x", "float32", (1,)), label)
    assert table["label"].to_pylist()[0] == np.array([1, 2], "<f4").tobytes()
    assert problems(table) == [set(), {"label.length"}]


def test_error_names_column_count_reason_and_fix():
    spec = ColumnSpec.of(TensorColumn("x", "float32", (2, 2)), LABEL)
    checks = all_checks(spec, "is_val")
    counts = {check.key: 0 for check in checks} | {
        "lengths_features": "3, 5",
        "least_label": 3.0,
        "most_label": 7.0,
    }
    for check in checks:
        if (check.role, check.problem) == ("features", "length"):
            counts[check.key] = 4
        if (check.role, check.problem) == ("label", "range"):
            counts[check.key] = 2
        if check.role == "indicator":
            counts[check.key] = 1
    text = str(invalid_rows_error(checks, counts, total=100, bad=6))
    assert "6 of 100 rows are not valid" in text
    assert (
        "'x' (features): 4 wrong length (expected 4 elements for shape (2, 2), seen 3, 5)" in text
    )
    assert "'y' (label): 2 outside the classes (expected 0 to 2 for 3 classes, seen 3 to 7)" in text
    assert "'is_val' (indicator): 1 null\n  'is_val' (indicator): 1 neither 0 nor 1\n" in text
    assert "handleInvalid='skip'" in text
    assert "'y' (label): 0" not in text


@pytest.mark.parametrize(
    ("role", "seen", "bad", "advice"),
    [
        (
            "features",
            "3",
            8,
            "Start the network with keras.Input((3,)), or give 'x' 4 elements a row.",
        ),
        (
            "label",
            "2",
            8,
            "End the network with keras.layers.Dense(2), or give 'y' 1 element a row.",
        ),
        ("features", "3", 7, "Clean these rows, or leave them out with handleInvalid='skip'."),
        ("features", "3, 5", 8, "Clean these rows, or leave them out with handleInvalid='skip'."),
    ],
)
def test_where_all_rows_have_another_width_the_network_is_to_change(role, seen, bad, advice):
    spec = ColumnSpec.of(TensorColumn("x", "float32", (4,)), TensorColumn("y", "float32", (1,)))
    checks = all_checks(spec, None)
    counts = {check.key: 0 for check in checks} | {f"lengths_{role}": seen}
    (length,) = (c for c in checks if (c.role, c.problem) == (role, "length"))
    counts[length.key] = bad
    text = str(invalid_rows_error(checks, counts, total=8, bad=bad))
    assert text.splitlines()[-1] == advice
