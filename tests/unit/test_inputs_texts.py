"""Strings as tensors: schema, encoding, and what one row may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import types as T

from spark_dlobd.data.columns import feature_column
from spark_dlobd.data.decode import decoded, rows_of
from spark_dlobd.data.encode import encode_column
from spark_dlobd.data.encoded import EncodedColumn
from spark_dlobd.data.side_by_side import side_by_side
from spark_dlobd.errors import ConfigurationError, DataError
from spark_dlobd.estimators.features import encode_rows
from spark_dlobd.estimators.one_row import _row
from spark_dlobd.job.columns import Padding, TensorColumn

SCHEMA = (
    T.StructType()
    .add("title", T.StringType())
    .add("country", T.StringType())
    .add("tags", T.ArrayType(T.StringType()))
    .add("grid", T.ArrayType(T.ArrayType(T.StringType())))
    .add("age", T.IntegerType())
    .add("scores", T.ArrayType(T.IntegerType()))
)
WORDS = ["", "naïve", "日本語", "a\0b", "🙂", " x "]


def column(*shape: int, padding: Padding | None = None) -> TensorColumn:
    return TensorColumn("tags", "string", shape, stored="text", padding=padding)


def as_bytes(rows: list[Any]) -> list[Any]:
    return [[one.encode() for one in row] for row in rows]


def written(source: pa.Array, one: TensorColumn) -> tuple[EncodedColumn, Any]:
    made = encode_column(source, one)
    return made, decoded(rows_of(made.stored(one), one), one).tolist()


def test_a_string_a_row_is_its_utf8() -> None:
    one = feature_column(SCHEMA, "title", (1,), "string")
    made, back = written(pa.array([word.encode() for word in WORDS]), one)
    assert made.stored(one).to_pylist() == [word.encode() for word in WORDS]
    assert back == as_bytes([[word] for word in WORDS])


def test_arrays_of_strings_come_back_exactly() -> None:
    rows = [WORDS[:3], WORDS[3:]]
    one = feature_column(SCHEMA, "tags", (3,), "string")
    made, back = written(pa.array(as_bytes(rows)), one)
    assert back == as_bytes(rows)
    # three lengths of four bytes before the strings
    stored = made.stored(one).to_pylist()
    assert stored[0][:12] == np.array([0, 6, 9], "<u4").tobytes()
    assert stored[0][12:] == "naïve日本語".encode()


def test_nested_arrays_of_strings_are_of_the_shape() -> None:
    one = feature_column(SCHEMA, "grid", (2, 3), "string")
    assert one.nested
    _, back = written(pa.array(as_bytes([WORDS])), one)
    assert back == [as_bytes([WORDS[:3], WORDS[3:]])]


def test_what_is_not_valid_is_empty_and_says_so() -> None:
    source = pa.array([[b"a", b"b"], None, [b"a", None], [b"a"], [b"c", b"d"]])
    made, back = written(source, column(2))
    assert made.reasons.tolist() == [0, 1, 2, 8, 0]
    assert made.lengths is not None and made.lengths.to_pylist() == [None, None, None, 1, None]
    assert [row for row, bad in zip(back, made.reasons, strict=True) if not bad] == [
        [b"a", b"b"],
        [b"c", b"d"],
    ]
    assert made.tensors(column(2))[1].tolist() == [b"", b""]


def test_a_slice_of_a_batch_is_read_from_its_own_place() -> None:
    source = pa.array(as_bytes([["x", "yy"], ["zzz", ""], ["é", "w"]])).slice(1)
    assert written(source, column(2))[1] == as_bytes([["zzz", ""], ["é", "w"]])


def test_no_rows_are_no_rows() -> None:
    for one in (column(1), column(2)):
        assert written(pa.array([], pa.list_(pa.binary())), one)[1] == []


def test_strings_are_padded_with_empty_ones_or_a_word() -> None:
    source = pa.array(as_bytes([["a"], [], ["b", "cc", "d"]]))
    at_end = column(3, padding=Padding("", "start"))
    assert written(source, at_end)[1] == as_bytes([["a", "", ""], ["", "", ""], ["b", "cc", "d"]])
    at_start = column(3, padding=Padding("né", "end"))
    assert written(source, at_start)[1] == as_bytes(
        [["né", "né", "a"], ["né", "né", "né"], ["b", "cc", "d"]]
    )


def test_rows_in_scoring_are_the_same() -> None:
    import pandas as pd

    rows = [np.array([b"a", "é".encode()], object), None, np.array([b"a", None], object)]
    made = encode_rows(pd.Series(rows, dtype=object), column(2))
    assert made.reasons.tolist() == [0, 1, 2]
    assert made.tensors(column(2))[0].tolist() == [b"a", "é".encode()]
    nothing = encode_rows(pd.Series([None, None], dtype=object), column(2))
    assert nothing.reasons.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("value", "one", "wanted"),
    [
        ("é", column(1), [["é"]]),
        (b"x", column(), "x"),
        (["a", "b"], column(2), [["a", "b"]]),
        (np.array([["a", "b"]]), column(1, 2), [[["a", "b"]]]),
        (["a"], column(2, padding=Padding("", "start")), [["a", ""]]),
        (["a", "b", "c"], column(2, padding=Padding("", "start")), [["a", "b"]]),
        (["a", "b", "c"], column(2, padding=Padding("", "end")), [["b", "c"]]),
    ],
)
def test_one_row(value: Any, one: TensorColumn, wanted: Any) -> None:
    text = np.vectorize(bytes.decode, otypes=[object])(_row(value, one)).tolist()
    assert text == ([wanted] if isinstance(wanted, str) else wanted)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ab", r"one row of 2 strings\. Got 'ab'"),
        ([1, 2], r"one row of 2 strings\. Got \[1, 2\]"),
        (["a", None], r"one row of 2 strings"),
        ([["a", "b"]], r"shape \(2,\), flat or nested\. Got shape \(1, 2\)"),
        (["a"], r"expected 2 elements for shape \(2,\), seen 1"),
    ],
)
def test_one_row_that_is_none(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _row(value, column(2))


def test_columns_of_strings_stand_side_by_side() -> None:
    one = side_by_side(SCHEMA, ["title", "tags"], (4,), "string")
    assert one.beside == (("title", 1), ("tags", 3))
    assert (one.dtype, one.stored) == ("string", "text")
    made = encode_column(pa.array([[b"a", None, b"b", b"c"]]), one)
    assert made.places is not None and made.places.to_pylist() == [1]


@pytest.mark.parametrize(
    ("name", "takes", "shape", "message"),
    [
        ("title", "float32", (1,), r"StringIndexer.*keras\.Input\(\.\.\., dtype='string'\)"),
        ("tags", "int64", (3,), r"StringIndexer.*dtype='string'\) instead of int64"),
        ("age", "string", (1,), r"must hold strings.*col\('age'\)\.cast\('string'\)\)"),
        ("scores", "string", (3,), r"must hold strings.*\.cast\('array<string>'\)\)"),
        ("title", "string", (2,), r"one string per row.*shape \(2,\).*a list of 2 columns"),
        ("grid", "string", (6,), r"nested 2 deep.*shape \(6,\)"),
    ],
)
def test_columns_that_do_not_fit(
    name: str, takes: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        feature_column(SCHEMA, name, shape, takes)


def test_numbers_beside_strings_are_told_to_be_cast() -> None:
    with pytest.raises(ConfigurationError, match=r"'age' must hold strings.*cast\('string'\)"):
        side_by_side(SCHEMA, ["title", "age"], (2,), "string")
    with pytest.raises(ConfigurationError, match=r"'title' must be a number.*StringIndexer"):
        side_by_side(SCHEMA, ["title", "age"], (2,), "float32")
    with pytest.raises(ConfigurationError, match="only one may leave open"):
        side_by_side(SCHEMA, ["tags", "grid"], (4,), "string")
