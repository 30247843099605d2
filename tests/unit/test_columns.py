"""Schema to tensors, without a JVM."""

from __future__ import annotations

import pytest
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as T

from spark_dlobd.data.columns import (
    check_indicator,
    check_roles,
    feature_column,
    label_column,
    weight_column,
)
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.job.columns import ColumnSpec, TensorColumn

SCHEMA = (
    T.StructType()
    .add("vec", VectorUDT(), metadata={"ml_attr": {"num_attrs": 4}})
    .add(
        "named", VectorUDT(), metadata={"ml_attr": {"attrs": {"numeric": [{}, {}], "binary": [{}]}}}
    )
    .add("unknown", VectorUDT())
    .add("doubles", T.ArrayType(T.DoubleType()))
    .add("shorts", T.ArrayType(T.ShortType()))
    .add("flags", T.ArrayType(T.BooleanType()))
    .add("nested", T.ArrayType(T.ArrayType(T.FloatType())))
    .add("image", T.BinaryType())
    .add("num", T.DoubleType())
    .add("long", T.LongType())
    .add("flag", T.BooleanType())
    .add("text", T.StringType())
    .add("when", T.DateType())
    .add("same", T.IntegerType())
    .add("Same", T.IntegerType())
)


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("vec", (2, 2), "float32"),
        ("unknown", (9,), "float32"),
        ("named", (3,), "float32"),
        ("doubles", (28, 28, 1), "float32"),
        ("shorts", (5,), "int16"),
        ("flags", (5,), "uint8"),
        ("image", (4, 4, 3), "uint8"),
        ("num", (), "float32"),
        ("num", (1,), "float32"),
        ("long", (), "float32"),
        ("flag", (), "uint8"),
    ],
)
def test_feature_dtypes(name, shape, dtype):
    takes = None if dtype == "float32" else "float32"
    assert feature_column(SCHEMA, name, shape) == TensorColumn(name, dtype, shape, takes=takes)


@pytest.mark.parametrize(
    ("name", "takes", "dtype"),
    [("num", "int64", "int64"), ("vec", "int32", "int32"), ("flag", "int64", "uint8")],
)
def test_whole_numbers_are_stored_for_a_network_of_whole_numbers(name, takes, dtype):
    shape = (4,) if name == "vec" else ()
    assert feature_column(SCHEMA, name, shape, takes).dtype == dtype


def test_nested_arrays_of_the_networks_shape():
    column = feature_column(SCHEMA, "nested", (2, 3))
    assert column == TensorColumn("nested", "float32", (2, 3), nested=True)
    assert feature_column(SCHEMA, "nested", (2, 3, 1)).nested  # grey images
    with pytest.raises(
        ConfigurationError,
        match=r"'nested' must hold strings, .* Got array<array<float>>",
    ):
        feature_column(SCHEMA, "nested", (2, 3), "string")
    with pytest.raises(ConfigurationError, match=r"The model takes complex64, which no column"):
        feature_column(SCHEMA, "nested", (2, 3), "complex64")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vec", (5,), r"'vec' holds vectors of shape \(4,\).*expects shape \(5,\), which is 5"),
        ("vec", (3,), r"Input\(\(4,\)\), or give 'vec' 3 elements a row\.$"),
        ("named", (2, 2), r"vectors of shape \(3,\).*shape \(2, 2\), which is 4 elements"),
        ("num", (784,), r"'num' holds one number per row.*shape \(784,\).*keras\.Input\(\(1,\)\)"),
        ("doubles", (0,), r"must be fixed and positive. Got \(0,\)"),
        ("missing", (1,), r"'missing' is not in the DataFrame. Available columns: 'vec', 'named'"),
        ("VEC", (4,), r"'VEC' is not in the DataFrame"),
        ("same", (), r"ambiguous: the DataFrame has 'same', 'Same'"),
        ("nested", (4,), r"'nested' holds arrays nested 2 deep, the model expects shape \(4,\)"),
        ("text", (), r"Got string. Index and encode strings first: StringIndexer"),
        ("when", (), r"'when' must be a number, an array of numbers, a vector or binary. Got date"),
    ],
)
def test_wrong_features_are_explained(name, shape, message):
    with pytest.raises(ConfigurationError, match=message):
        feature_column(SCHEMA, name, shape)


def test_labels():
    assert label_column(SCHEMA, "num", num_classes=10) == TensorColumn("num", "int32", (), 10)
    assert label_column(SCHEMA, "flag", num_classes=2) == TensorColumn("flag", "int32", (), 2)
    assert label_column(SCHEMA, "long") == TensorColumn("long", "float32", ())
    assert label_column(SCHEMA, "vec", (4,)) == TensorColumn("vec", "float32", (4,))
    assert label_column(SCHEMA, "shorts", (2,)) == TensorColumn("shorts", "float32", (2,))


@pytest.mark.parametrize(
    ("name", "shape", "classes", "message"),
    [
        ("text", (), 3, r"'text' must be numeric. Got string: index it first.*StringIndexer"),
        ("vec", (), 3, r"'vec' must hold a class index per row"),
        ("image", (), None, r"'image' must hold numbers, an array or a vector. Got binary"),
        ("vec", (3,), None, r"vectors of shape \(4,\).*expects shape \(3,\).*layers\.Dense\(4\)"),
        ("num", (3,), None, r"'num' holds one number per row"),
    ],
)
def test_wrong_labels_are_explained(name, shape, classes, message):
    with pytest.raises(ConfigurationError, match=message):
        label_column(SCHEMA, name, shape, classes)


def test_weights_and_indicators():
    assert weight_column(SCHEMA, "long") == TensorColumn("long", "float32", ())
    with pytest.raises(ConfigurationError, match=r"weight column 'flag' must be numeric. Got bool"):
        weight_column(SCHEMA, "flag")
    for name in ("flag", "num", "long"):
        check_indicator(SCHEMA, name)
    with pytest.raises(ConfigurationError, match=r"must be boolean, or a number .*Got string"):
        check_indicator(SCHEMA, "text")


def test_one_column_for_two_roles_is_refused():
    x, y = TensorColumn("x", "float32", (1,)), TensorColumn("y", "float32", ())
    check_roles(ColumnSpec.of(x, y), "other")
    check_roles(ColumnSpec((x, x), (y, y)), None)
    with pytest.raises(ConfigurationError, match="featuresCol and weightCol must name different"):
        check_roles(ColumnSpec.of(x, y, TensorColumn("X", "float32", ())), None)
    with pytest.raises(ConfigurationError, match="labelCol and validationIndicatorCol must name"):
        check_roles(ColumnSpec.of(x, y), "Y")
