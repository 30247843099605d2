"""Networks that say of several labels whether each is true."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as T

from spark_dlobd.data.checks import PROBLEMS
from spark_dlobd.data.columns import flags_column
from spark_dlobd.data.encode import encode_column
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.estimators.outputs import check_thresholds, derive_outputs, prediction_of
from spark_dlobd.job.columns import TensorColumn
from spark_dlobd.job.network import OutputSpec
from spark_dlobd.training.keras_codec import compile_config, output_specs

SPEC = OutputSpec("multilabel", 3)


def spec_of(units: int, loss: Any, problem: Any = None, activation: str = "sigmoid") -> OutputSpec:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units, activation)])
    (spec,) = output_specs(model, compile_config(model, loss), problem)
    return spec


@pytest.mark.parametrize("loss", ["binary_crossentropy", "bce", "binary_focal_crossentropy"])
def test_binary_losses_over_several_units(loss: str) -> None:
    assert spec_of(3, loss) == SPEC
    assert spec_of(3, loss, "classification") == SPEC
    assert spec_of(3, loss, "regression") == OutputSpec("regression", 3)
    assert spec_of(1, loss) == OutputSpec("binary", 1)


def test_logits() -> None:
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    assert spec_of(3, loss, activation="linear") == OutputSpec("multilabel", 3, True)


def test_a_loss_of_the_users_own_with_the_problem_named() -> None:
    assert spec_of(3, "mse", "multilabel") == SPEC
    assert spec_of(3, "mse", "multilabel", "linear") == OutputSpec("multilabel", 3, True)
    with pytest.raises(ConfigurationError, match=r"'auto', 'classification', 'multilabel', 'regr"):
        spec_of(3, "mse", "labels")


def test_an_output_of_several_axes_stays_numbers() -> None:
    layers = [keras.Input((4,)), keras.layers.Dense(4, "sigmoid"), keras.layers.Reshape((2, 2))]
    model = keras.Sequential(layers)
    (spec,) = output_specs(model, compile_config(model, "binary_crossentropy"))
    assert spec.problem == "regression"


def test_labels_above_one_half() -> None:
    found = derive_outputs(np.array([[0.75, 0.5, 0.9], [0.1, 0.2, 0.3]]), SPEC)
    assert found["prediction"].tolist() == [[0, -1, 2], [-1, -1, -1]]
    assert [prediction_of(row, SPEC) for row in found["prediction"]] == [[0.0, 2.0], []]
    assert found["probability"].tolist() == [[0.75, 0.5, 0.9], [0.1, 0.2, 0.3]]
    np.testing.assert_allclose(found["rawPrediction"][0], np.log([3, 1, 9]), atol=1e-12)


def test_thresholds_of_each_label() -> None:
    network = np.array([[0.75, 0.5, 0.9]])
    found = derive_outputs(network, SPEC, [0.8, 0.4, 0.9])
    assert found["prediction"].tolist() == [[-1, 1, -1]]
    check_thresholds([0.8, 0.4, 0.9], [SPEC])
    with pytest.raises(ConfigurationError, match=r"one value per label \(3\)"):
        check_thresholds([0.5, 0.5], [SPEC])


def test_probabilities_of_logits() -> None:
    found = derive_outputs(np.array([[0.0, np.log(3.0), -1e6]]), OutputSpec("multilabel", 3, True))
    np.testing.assert_allclose(found["probability"], [[0.5, 0.75, 0.0]], atol=1e-300)
    assert found["prediction"].tolist() == [[-1, 1, -1]]
    assert found["rawPrediction"].tolist() == [[0.0, np.log(3.0), -1e6]]


def test_flags_that_are_no_flags() -> None:
    column = TensorColumn("y", "int32", (2,), 2, flags=True)
    rows = [[0.0, 1.0], [2.0, 0.0], [1.0, 0.5], [None, 1.0], [1.0], None, [-1.0, float("nan")]]
    made = encode_column(pa.array(rows, pa.list_(pa.float64())), column, "label")
    bits = {name: 1 << PROBLEMS.index(name) for name in PROBLEMS}
    assert made.reasons.tolist() == [
        0,
        bits["range"],
        bits["range"],
        bits["null_element"],
        bits["length"],
        bits["null"],
        bits["range"] | bits["not_finite"],
    ]
    assert made.classes is not None
    assert made.classes.to_pylist()[:4] == [None, 2.0, 0.5, None]
    assert made.tensors(column)[:2].tolist() == [[0, 1], [0, 0]]
    assert made.values.dtype == np.int32


@pytest.mark.parametrize("kind", [T.ArrayType(T.BooleanType()), VectorUDT()])
def test_columns_of_flags(kind: T.DataType) -> None:
    schema = T.StructType().add("y", kind)
    expected = TensorColumn("y", "int32", (3,), 2, part="tags", flags=True)
    assert flags_column(schema, "y", (3,), "tags") == expected


def test_one_class_per_row_is_no_column_of_flags() -> None:
    schema = T.StructType().add("y", T.IntegerType())
    with pytest.raises(ConfigurationError, match=r"array or vector of 3 flags.*Got int.*softmax"):
        flags_column(schema, "y", (3,))
