"""Outputs that are sequences or images: numbers, and classes of each position."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as T

from spark_dlobd.data.checks import PROBLEMS
from spark_dlobd.data.columns import check_roles, feature_column, label_column, weight_column
from spark_dlobd.data.encode import encode_column
from spark_dlobd.errors import ConfigurationError, ModelError
from spark_dlobd.estimators import scoring
from spark_dlobd.estimators.outputs import derive_outputs, field_shape, num_classes, output_field
from spark_dlobd.job.columns import ColumnSpec, TensorColumn
from spark_dlobd.job.network import OutputSpec
from spark_dlobd.training.keras_codec import compile_config, output_specs

NUMBERS = OutputSpec("regression", 6, shape=(3, 2))
CLASSES = OutputSpec("multiclass", 12, shape=(2, 2, 3))
FIELDS = ("prediction", "probability", "rawPrediction")
ATTRIBUTES = {"ml_attr": {"num_attrs": 6}}


def spec_of(last: Any, loss: Any, problem: Any = None) -> OutputSpec:
    model = keras.Sequential([keras.Input((2, 2, 1)), last])
    (spec,) = output_specs(model, compile_config(model, loss), problem)
    return spec


def test_what_the_loss_makes_of_an_image() -> None:
    softmax = keras.layers.Conv2D(3, 1, activation="softmax")
    assert spec_of(softmax, "sparse_categorical_crossentropy") == CLASSES
    assert spec_of(softmax, "categorical_crossentropy") == CLASSES
    assert spec_of(softmax, "mse", "classification") == CLASSES
    assert spec_of(softmax, "mse") == OutputSpec("regression", 12, shape=(2, 2, 3))
    sigmoid = keras.layers.Conv2D(1, 1, activation="sigmoid")
    assert spec_of(sigmoid, "bce") == OutputSpec("regression", 4, shape=(2, 2, 1))
    with pytest.raises(ModelError, match=r"one output unit per class.*has 1\. Use binary"):
        spec_of(sigmoid, "sparse_categorical_crossentropy")
    with pytest.raises(ModelError, match=r"multilabel classifier.*\(batch, 2, 2, 1\): flatten it"):
        spec_of(sigmoid, "bce", "multilabel")


def test_logits_of_a_convolution() -> None:
    linear = keras.layers.Conv2D(3, 1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert spec_of(linear, loss) == replace(CLASSES, from_logits=True)
    with pytest.warns(UserWarning, match="linear, but the loss"):
        spec_of(linear, "sparse_categorical_crossentropy")


def test_classes_of_each_position() -> None:
    network = np.array([[[[0.7, 0.2, 0.1], [0, 1, 0]], [[0, 0.4, 0.6], [0.2, 0.3, 0.5]]]])
    found = derive_outputs(network, CLASSES)
    assert found["prediction"].tolist() == [[0, 1, 2, 2]]
    assert found["probability"].tolist() == [network.reshape(-1).tolist()]
    np.testing.assert_allclose(found["rawPrediction"][0, 0], np.log(0.7))
    scaled = derive_outputs(network, CLASSES, [1.0, 0.1, 1.0])
    assert scaled["prediction"].tolist() == [[1, 1, 1, 1]]
    assert num_classes(CLASSES) == 3
    none = derive_outputs(np.zeros((0, 2, 2, 3)), CLASSES)
    assert [none[field].shape for field in FIELDS] == [(0, 4), (0, 12), (0, 12)]


def test_shapes_and_types_of_columns() -> None:
    array = T.ArrayType(T.DoubleType())
    field = output_field("prediction", "p", NUMBERS, ATTRIBUTES)
    assert field.dataType == array
    assert field.metadata == {**ATTRIBUTES, "spark_dlobd": {"shape": [3, 2]}}
    flat = output_field("prediction", "p", OutputSpec("regression", 6), {})
    assert flat.metadata == {"spark_dlobd": {"shape": [6]}}
    assert output_field("prediction", "p", OutputSpec("regression", 1), {}).metadata == {}
    assert [field_shape(CLASSES, field) for field in FIELDS] == [(2, 2), (2, 2, 3), (2, 2, 3)]
    found = [output_field(field, "p", CLASSES, ATTRIBUTES) for field in FIELDS]
    assert {one.dataType for one in found} == {array}
    assert found[1].metadata == {"spark_dlobd": {"shape": [2, 2, 3]}}
    vector = output_field("probability", "p", OutputSpec("multiclass", 3), {})
    assert vector.dataType == VectorUDT()


def test_large_outputs_are_scored_in_small_parts() -> None:
    plan = scoring.ScoringPlan(
        digest="0",
        inputs=(),
        outputs=(OutputSpec("regression", 2**20),),
        fields=(scoring.Field(0, "prediction"),),
        batch_size=8,
        threads=1,
        thresholds=None,
        handle_invalid="error",
    )
    assert scoring.rows_of_a_frame(plan) == 8
    assert scoring.rows_of_a_frame(replace(plan, outputs=(OutputSpec("regression", 1),))) == 4096


NESTED = T.ArrayType(T.ArrayType(T.IntegerType()))


def test_labels_flat_nested_and_of_bytes() -> None:
    schema = T.StructType().add("flat", T.ArrayType(T.FloatType())).add("nested", NESTED)
    schema = schema.add("bytes", T.BinaryType()).add("number", T.IntegerType())
    shape = (3, 2)
    assert label_column(schema, "flat", shape) == TensorColumn("flat", "float32", shape)
    assert label_column(schema, "nested", shape, 5) == TensorColumn(
        "nested", "int32", shape, 5, nested=True
    )
    assert label_column(schema, "bytes", shape, 5).dtype == "int32"
    with pytest.raises(ConfigurationError, match=r"array of class indices of shape \(3, 2\)"):
        label_column(schema, "number", shape, 5)
    with pytest.raises(ConfigurationError, match=r"a class index per row\. Got binary"):
        label_column(schema, "bytes", (), 5)
    with pytest.raises(ConfigurationError, match=r"numbers, an array or a vector\. Got binary"):
        label_column(schema, "bytes")
    with pytest.raises(ConfigurationError, match=r"The label column 'nested' holds arrays nested"):
        label_column(schema, "nested", (6,))
    assert weight_column(schema, "number", axes=2).shape == (1, 1)


def test_classes_that_are_none() -> None:
    column = TensorColumn("y", "int32", (2,), 3)
    rows = [[0.0, 2.0], [3.0, 0.0], [0.5, 1.0], [1.0, -1.0]]
    made = encode_column(pa.array(rows, pa.list_(pa.float64())), column, "label")
    bits = {name: 1 << PROBLEMS.index(name) for name in PROBLEMS}
    assert made.reasons.tolist() == [0, bits["range"], bits["not_integer"], bits["range"]]
    assert made.classes is not None
    assert made.classes.to_pylist() == [None, 3.0, None, -1.0]
    raw = encode_column(pa.array([b"\x00\x02", b"\x03\x00", b"\x01"]), column, "label")
    assert raw.reasons.tolist() == [0, bits["range"], bits["length"]]
    assert raw.tensors(column)[0].tolist() == [0, 2]


def test_an_autoencoder_learns_its_input() -> None:
    schema = T.StructType().add("x", T.ArrayType(T.FloatType()))
    features = feature_column(schema, "x", (6,))
    check_roles(ColumnSpec.of(features, label_column(schema, "x", (3, 2))), None)
    told = r"labelCol and featuresCol.*Both are 'x'\. Only an autoencoder"
    for label in (label_column(schema, "x", (2,)), label_column(schema, "x", (6,), 3)):
        with pytest.raises(ConfigurationError, match=told):
            check_roles(ColumnSpec.of(features, label), None)
    one_hot = ColumnSpec.of(features, label_column(schema, "x", (6,)))
    with pytest.raises(ConfigurationError, match=told):
        check_roles(one_hot, None, {""})
