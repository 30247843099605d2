"""Numbers as the type the network takes, checked by hand."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from spark_dlobd.data.cast import cast, cast_decimals, limits, stored_dtype

NAN, INF = float("nan"), float("inf")


def marked(values, dtype):
    result, marks = cast(np.array(values), dtype)
    return result, {problem: mark.tolist() for problem, mark in marks.items()}


@pytest.mark.parametrize(
    ("source", "network", "stored"),
    [
        ("uint8", "float32", "uint8"),
        ("int16", "float32", "int16"),
        ("int32", "float32", "float32"),
        ("int64", "float32", "float32"),
        ("int64", "float64", "float64"),
        ("float64", "float32", "float32"),
        ("float64", "float64", "float64"),
        ("float64", "int64", "int64"),
        ("int8", "int64", "int8"),
        ("int64", "int32", "int32"),
        ("int8", "uint16", "uint16"),  # -1 has no place there
        ("uint8", "bool", "bool"),
        ("int32", "float16", "float16"),  # 70000 has no place there
        ("uint8", "bfloat16", "uint8"),
    ],
)
def test_what_the_network_takes_decides(source, network, stored):
    assert stored_dtype(source, network) == stored


@pytest.mark.parametrize(
    ("values", "dtype", "expected", "marks"),
    [
        ([2.0**24 + 1, -3.0], "int64", [2**24 + 1, -3], {}),
        ([2**53 + 1], "int64", [2**53 + 1], {}),
        ([0.5, NAN, INF], "int32", [0] * 3, {"not_integer": [1, 0, 0], "not_finite": [0, 1, 1]}),
        (
            [2.0**31, -(2.0**31), 2.0**31 - 1],
            "int32",
            [0, -(2**31), 2**31 - 1],
            {"range": [1, 0, 0]},
        ),
        ([2.0**63, -(2.0**63)], "int64", [0, -(2**63)], {"range": [1, 0]}),
        ([2**31, 5], "int32", [0, 5], {"range": [1, 0]}),
        ([-1, 255], "uint8", [0, 255], {"range": [1, 0]}),
        ([0, 1, 2], "bool", [False, True, False], {"range": [0, 0, 1]}),
        ([True, False], "int64", [1, 0], {}),
        ([1e39, 1.5], "float32", [INF, 1.5], {"not_finite": [1, 0]}),
        ([70000, 3], "float16", [INF, 3], {"not_finite": [1, 0]}),
        ([3.4e38, 2.0], "bfloat16", [INF, 2], {"not_finite": [1, 0]}),
        ([1e39], "float64", [1e39], {}),
    ],
)
def test_values_that_have_no_place_are_marked(values, dtype, expected, marks):
    result, found = marked(values, dtype)
    assert result.tolist() == expected
    assert found == {problem: [bool(m) for m in mark] for problem, mark in marks.items()}


def test_decimals_are_exact():
    large = pa.array([Decimal(2**63), Decimal(2**64), Decimal(-1)], pa.decimal128(38, 0))
    whole, marks = cast_decimals(large, "uint64")
    assert (whole.tolist(), marks["range"].tolist()) == ([2**63, 0, 0], [False, True, True])
    texts = ["9007199254740993", "0.5", "9223372036854775808", "-9223372036854775808", "1.000"]
    values = pa.array([*map(Decimal, texts), None], pa.decimal128(38, 3))
    whole, marks = cast_decimals(values, "int64")
    assert whole.tolist() == [2**53 + 1, 0, 0, -(2**63), 1, 0]
    assert {problem: np.flatnonzero(mark).tolist() for problem, mark in marks.items()} == {
        "not_integer": [1],
        "range": [2],
    }


def test_limits():
    assert limits("int8") == (-128, 127)
    assert limits("float16") == (-65504, 65504)
    assert limits("bool") == (0, 1)
