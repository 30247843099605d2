"""Rows on their way through pandas are cast and checked as training does it."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from spark_dlobd.data.checks import invalid_features_error
from spark_dlobd.errors import DataError
from spark_dlobd.estimators.features import encode_rows
from spark_dlobd.job.columns import TensorColumn

FLOATS = TensorColumn("x", "float32", (2,))


def series(*rows):
    values = np.empty(len(rows), dtype=object)
    for index, row in enumerate(rows):
        values[index] = row
    return pd.Series(values)


def test_good_rows_are_reshaped():
    rows = series(np.arange(4.0), np.arange(4.0, 8.0))
    encoded = encode_rows(rows, TensorColumn("x", "float32", (2, 2)))
    tensors = encoded.tensors(TensorColumn("x", "float32", (2, 2)))
    assert tensors.dtype == np.float32
    assert tensors.tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert encoded.reasons.tolist() == [0, 0]


def test_bad_rows_are_zero_and_named():
    rows = series(
        *(np.array(row) for row in ([1.0, 2.0], [1.0], [1.0, np.nan], [1e39, 1.0], [1, 2, 3.0])),
        None,
    )
    encoded = encode_rows(rows, FLOATS)
    assert encoded.tensors(FLOATS).tolist() == [[1, 2]] + [[0, 0]] * 5
    error = invalid_features_error([(FLOATS, encoded)])
    assert isinstance(error, DataError)
    assert str(error).splitlines() == [
        "5 of 6 rows of this batch are not valid:",
        "  'x' (features): 1 null",
        "  'x' (features): 2 NaN or infinite",
        "  'x' (features): 2 wrong length (expected 2 elements for shape (2,), seen 1, 3)",
        "Clean these rows, or leave them out with handleInvalid='skip'.",
    ]
    assert np.isnan(rows[2][1])  # as it was


def test_bytes_and_no_rows_and_only_nulls():
    pixels = TensorColumn("x", "uint8", (2,), takes="float32")
    encoded = encode_rows(series(b"\x01\xff", None, b"a"), pixels)
    assert encoded.tensors(pixels).tolist() == [[1, 255], [0, 0], [0, 0]]
    assert encode_rows(pd.Series([], dtype=object), FLOATS).tensors(FLOATS).shape == (0, 2)
    nothing = encode_rows(series(None, None), FLOATS)
    assert nothing.tensors(FLOATS).tolist() == [[0, 0], [0, 0]]
    assert (nothing.reasons != 0).all()


@pytest.mark.parametrize("kind", [int, Decimal])
def test_whole_numbers_are_exact_beside_a_null(kind):
    ids = TensorColumn("x", "int64", (1,))
    rows = series(np.array([kind(2**53 + 1)]), None, np.array([kind(2**24 + 3)]))
    encoded = encode_rows(rows, ids)
    assert encoded.tensors(ids).tolist() == [[2**53 + 1], [0], [2**24 + 3]]


def test_words_for_whole_numbers():
    ids = TensorColumn("x", "int32", (1,))
    encoded = encode_rows(series(np.array([0.5]), np.array([2.0**31]), np.array([7.0])), ids)
    assert str(invalid_features_error([(ids, encoded)])).splitlines()[1:3] == [
        "  'x' (features): 1 not a whole number (the model takes int32: whole numbers from "
        "-2147483648 to 2147483647)",
        "  'x' (features): 1 out of range (the model takes int32: whole numbers from "
        "-2147483648 to 2147483647)",
    ]
