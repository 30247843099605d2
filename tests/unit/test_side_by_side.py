"""Columns side by side in one input: what they are, and what is refused."""

from __future__ import annotations

import pytest
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as T

from spark_dlobd.data.columns import find_field, reference
from spark_dlobd.data.side_by_side import side_by_side
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.job.columns import Piece

SCHEMA = (
    T.StructType()
    .add("age", T.DoubleType())
    .add("flag", T.BooleanType())
    .add("id", T.LongType())
    .add("vec", VectorUDT(), True, {"ml_attr": {"num_attrs": 3}})
    .add("open", VectorUDT())
    .add("list", T.ArrayType(T.FloatType()))
    .add("raw", T.BinaryType())
    .add("text", T.StringType())
    .add("money", T.DecimalType(10, 2))
    .add("user", T.StructType().add("age", T.IntegerType()).add("x.y", T.FloatType()))
    .add("user.height", T.FloatType())
)


def test_pieces_stand_in_the_order_that_is_given() -> None:
    column = side_by_side(SCHEMA, ["vec", "age", "list", "flag"], (7,), part="deep")
    assert column.beside == (("vec", 3), ("age", 1), ("list", 2), ("flag", 1))
    assert (column.part, column.dtype, column.size) == ("deep", "float32", 7)
    assert column.sources == ("vec", "age", "list", "flag")
    assert [column.source_of(place) for place in (0, 3, 5, 6)] == ["vec", "age", "list", "flag"]


def test_one_column_is_a_column_like_any_other() -> None:
    assert side_by_side(SCHEMA, ["vec"], (3,)).beside == ()


def test_a_path_into_a_struct() -> None:
    column = side_by_side(SCHEMA, ["user.age", "user.height"], (2,))
    assert column.beside == (Piece("user.age", 1), Piece("user.height", 1))
    # a column of that very name comes first
    assert find_field(SCHEMA, "user.height", "feature").dataType == T.FloatType()
    assert reference(SCHEMA, "user.height") == "`user.height`"
    assert reference(SCHEMA, "user.age") == "`user`.`age`"


@pytest.mark.parametrize(
    ("names", "shape", "takes", "message"),
    [
        (["age", "age"], (2,), "float32", r"Got 'age' several times in \['age', 'age'\]"),
        (
            ["age", "vec"],
            (5,),
            "float32",
            r"'vec' \(3\) have 4 elements together.*Input\(\(4",
        ),
        (["open", "list"], (9,), "float32", r"only one may leave open.*Got 'open', 'list'"),
        (["vec", "list"], (3,), "float32", r"beside 'list' have 3 elements already"),
        (["age", "raw"], (9,), "float32", r"'raw' holds bytes, which cannot stand beside"),
        (["age", "text"], (2,), "float32", r"'text' must be a number.*StringIndexer"),
        (["id", "age"], (2,), "int64", r"bigint column 'id' cannot stand beside 'age'"),
        (["money", "flag"], (2,), "int32", r"'money' holds decimals"),
        (["user.weight", "age"], (2,), "float32", r"'user.weight' is not in the DataFrame"),
    ],
)
def test_what_does_not_fit_is_explained(
    names: list[str], shape: tuple[int, ...], takes: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        side_by_side(SCHEMA, names, shape, takes)
