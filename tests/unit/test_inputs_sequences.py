"""Arrays of any length as sequences of one length: schema and encoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import types as T

from spark_dlobd.data.checks import PROBLEMS
from spark_dlobd.data.encode import encode_column
from spark_dlobd.data.sequences import sequence_column
from spark_dlobd.errors import ConfigurationError, DataError
from spark_dlobd.estimators.one_row import _row
from spark_dlobd.job.columns import Padding, TensorColumn
from spark_dlobd.job.input_columns import SequenceColumn, input_column

SCHEMA = (
    T.StructType()
    .add("tokens", T.ArrayType(T.IntegerType()))
    .add("flags", T.ArrayType(T.BooleanType()))
    .add("words", T.ArrayType(T.StringType()))
    .add("steps", T.ArrayType(T.ArrayType(T.DoubleType())))
    .add("deep", T.ArrayType(T.ArrayType(T.ArrayType(T.DoubleType()))))
    .add("n", T.IntegerType())
    .add("dates", T.ArrayType(T.DateType()))
)


def described(
    name: str, shape: tuple[int, ...], takes: str = "float32", **options: Any
) -> TensorColumn:
    given = SequenceColumn(name, **{"length": 4, **options})
    return sequence_column(SCHEMA, given, shape, takes)


RAGGED = [[1, 2], [], [3, 4, 5, 6]]


@pytest.mark.parametrize("align", ["start", "end"])
@pytest.mark.parametrize("takes", ["int32", "int64", "float16", "float32", "bfloat16"])
def test_the_tensors_are_those_of_pad_sequences(align: str, takes: str) -> None:
    keras = pytest.importorskip("keras")
    column = described("tokens", (4,), takes, align=align, padding=9)
    made = encode_column(pa.array(RAGGED, pa.list_(pa.int32())), column)
    side: Any = {"start": "post", "end": "pre"}[align]
    wanted = keras.utils.pad_sequences(RAGGED, 4, "int32", side, side, value=9)
    assert made.tensors(column).astype("int32").tolist() == wanted.tolist()
    assert made.reasons.tolist() == [0, 0, 0]
    stored = made.stored(column).to_pylist()
    assert [len(row) for row in stored] == [column.row_bytes] * 3


def test_steps_are_padded_whole() -> None:
    column = described("steps", (4, 2))
    made = encode_column(pa.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0]]), column)
    assert made.tensors(column).tolist() == [
        [[1, 2], [3, 4], [0, 0], [0, 0]],
        [[5, 6], [0, 0], [0, 0], [0, 0]],
    ]
    at_end = described("steps", (4, 2), align="end", padding=-1)
    made = encode_column(pa.array([[5.0, 6.0]]), at_end)
    assert made.tensors(at_end).tolist() == [[[-1, -1], [-1, -1], [-1, -1], [5, 6]]]


def test_rows_that_are_not_valid_leave_the_others_in_place() -> None:
    column = described("tokens", (4,), "int32")
    source = pa.array([[1], None, [2, None], [3, 4]], pa.list_(pa.int32()))
    made = encode_column(source, column)
    assert made.reasons.tolist() == [0, 1, 2, 0]
    assert made.tensors(column).tolist() == [[1, 0, 0, 0], [0] * 4, [0] * 4, [3, 4, 0, 0]]
    floats = described("tokens", (4,))
    made = encode_column(pa.array([[1.0], [np.nan, 2.0], [3.0]]), floats)
    assert made.reasons.tolist() == [0, 1 << PROBLEMS.index("not_finite"), 0]
    assert made.tensors(floats)[2].tolist() == [3, 0, 0, 0]


def test_steps_of_another_width_are_of_another_shape() -> None:
    column = described("steps", (4, 2))
    # more than fits is what Spark sends for steps of unequal width
    made = encode_column(pa.array([[0.0] * 9, [1.0] * 3, [1.0] * 2]), column)
    shape = 1 << PROBLEMS.index("shape")
    assert made.reasons.tolist() == [shape, shape, 0]


def test_padding_is_stored_as_it_is() -> None:
    # bytes hold no -1
    assert described("flags", (4,)).dtype == "uint8"
    assert described("flags", (4,), padding=-1).dtype == "float32"
    big = 2**53 + 1
    column = described("tokens", (4,), "int64", padding=big)
    assert encode_column(pa.array([[1]], pa.list_(pa.int32())), column).tensors(
        column
    ).tolist() == [[1, big, big, big]]


@pytest.mark.parametrize(
    ("name", "shape", "takes", "options", "message"),
    [
        ("tokens", (5,), "int32", {}, r"length=4\) makes tensors of shape \(4,\).*shape \(5,\)"),
        ("tokens", (4, 2), "int32", {}, r"shape \(4,\) of its arrays.*shape \(4, 2\)"),
        ("steps", (4,), "float32", {}, r"shape \(4, features\) of its arrays of arrays.*\(4,\)"),
        ("steps", (4, 2, 2), "float32", {}, r"shape \(4, features\).*shape \(4, 2, 2\)"),
        ("deep", (4, 2), "float32", {}, "must hold arrays of numbers or strings"),
        ("n", (4,), "float32", {}, r"must hold arrays.*Got int\."),
        ("dates", (4,), "float32", {}, r"must hold arrays.*Got array<date>"),
        ("words", (4,), "float32", {}, r"holds strings, the model takes float32.*StringLookup"),
        ("tokens", (4,), "string", {}, "must hold strings, which the model takes"),
        ("tokens", (4,), "int32", {"padding": 0.5}, r"an input of int32 can hold\. Got 0\.5"),
        ("tokens", (4,), "uint8", {"padding": -1}, r"an input of uint8 can hold\. Got -1"),
        ("tokens", (4,), "float32", {"padding": float("nan")}, r"can hold\. Got nan"),
        ("tokens", (4,), "float32", {"padding": "x"}, r"a number that an input of float32"),
        ("words", (4,), "string", {"padding": 1}, r"a str for strings, e\.g\. '\[PAD\]'"),
        ("missing", (4,), "int32", {}, "is not in the DataFrame"),
    ],
)
def test_what_does_not_fit(
    name: str, shape: tuple[int, ...], takes: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        described(name, shape, takes, **options)


@pytest.mark.parametrize("options", [{"length": 0}, {"align": "middle"}, {"padding": None}])
def test_values_of_a_sequence_column(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))} of SequenceColumn"):
        SequenceColumn("tokens", **{"length": 4, **options})


def test_a_sequence_column_travels_as_json() -> None:
    given = SequenceColumn("words", length=7, padding="[PAD]", align="end")
    assert input_column(given.to_param()) == given


def test_one_row_is_padded_and_cut_as_in_transform() -> None:
    column = TensorColumn("x", "int32", (3,), padding=Padding(0, "start"))
    assert _row([1], column).tolist() == [[1, 0, 0]]
    assert _row([], column).tolist() == [[0, 0, 0]]
    assert _row(np.arange(9), column).tolist() == [[0, 1, 2]]
    steps = TensorColumn("x", "float32", (2, 2), padding=Padding(0, "end"))
    assert _row([[1, 2], [3, 4], [5, 6]], steps).tolist() == [[[3, 4], [5, 6]]]
    for wrong in ([[1, 2, 3]], [1, 2], [[1], [2, 3]]):
        with pytest.raises(DataError, match=r"predict takes"):
            _row(wrong, steps)
