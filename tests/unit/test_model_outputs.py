from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spark_dlobd.estimators.features import invalid_rows_error, to_tensor
from spark_dlobd.estimators.outputs import derive_outputs, num_classes
from spark_dlobd.training.job import OutputSpec, TensorColumn


def test_binary_probabilities() -> None:
    result = derive_outputs(np.array([[0.75], [0.5], [1.0]]), OutputSpec("binary", 1))
    assert result["probability"].tolist() == [[0.25, 0.75], [0.5, 0.5], [0.0, 1.0]]
    assert result["prediction"].tolist() == [1.0, 0.0, 1.0]
    np.testing.assert_allclose(result["rawPrediction"][0], [-np.log(3), np.log(3)])
    assert np.isfinite(result["rawPrediction"]).all()


def test_binary_logits() -> None:
    result = derive_outputs(np.array([[0.0], [2.0], [-1e6]]), OutputSpec("binary", 1, True))
    assert result["rawPrediction"].tolist() == [[0.0, 0.0], [-2.0, 2.0], [1e6, -1e6]]
    positive = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(result["probability"][1], [1 - positive, positive])
    np.testing.assert_allclose(result["probability"][2], [1.0, 0.0], atol=1e-300)


def test_multiclass_logits() -> None:
    result = derive_outputs(
        np.array([[0.0, np.log(3.0)], [1e4, 0]]), OutputSpec("multiclass", 2, True)
    )
    np.testing.assert_allclose(result["probability"], [[0.25, 0.75], [1.0, 0.0]])
    assert result["prediction"].tolist() == [1.0, 0.0]


def test_thresholds_scale_probabilities() -> None:
    network = np.array([[0.5, 0.3, 0.2]])
    spec = OutputSpec("multiclass", 3)
    assert derive_outputs(network, spec)["prediction"].tolist() == [0.0]
    assert derive_outputs(network, spec, [0.9, 0.3, 0.9])["prediction"].tolist() == [1.0]
    assert derive_outputs(network, spec, [0.9, 0.3, 0.0])["prediction"].tolist() == [2.0]
    assert derive_outputs(np.array([[1.0, 0.0]]), OutputSpec("multiclass", 2), [1.0, 0.0])[
        "prediction"
    ].tolist() == [0.0]


@pytest.mark.parametrize("spec", [OutputSpec("multiclass", 3, True), OutputSpec("binary", 1)])
def test_no_rows(spec: OutputSpec) -> None:
    result = derive_outputs(np.zeros((0, spec.units)), spec)
    assert result["probability"].shape == (0, num_classes(spec))


def test_regression_of_a_tensor_is_flattened() -> None:
    result = derive_outputs(np.arange(8.0).reshape(2, 2, 2), OutputSpec("regression", 4))
    assert result["prediction"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_tensor_of_good_rows() -> None:
    rows = pd.Series([np.arange(4.0), np.arange(4.0, 8.0)])
    values, reasons = to_tensor(rows, TensorColumn("x", "float32", (2, 2)))
    assert values.dtype == np.float32
    assert values.tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert set(reasons) == {""}


def test_bad_rows_are_zero_and_say_why() -> None:
    rows = pd.Series([np.array([1.0, 2.0]), None, np.array([1.0]), np.array([1.0, np.nan])])
    tensor = TensorColumn("x", "float32", (2,))
    values, reasons = to_tensor(rows, tensor)
    assert values.tolist() == [[1, 2], [0, 0], [0, 0], [1, 0]]
    assert reasons.tolist() == ["", "null or NaN", "1 numbers (shape (1,))", "null or NaN"]
    message = (
        r"'x' must hold 2 numbers a row \(shape \(2,\)\)\. Of 4 rows in this batch: "
        r"1 with 1 numbers \(shape \(1,\)\), 2 with null"
    )
    with pytest.raises(ValueError, match=message):
        raise invalid_rows_error(reasons, tensor, "x")


def test_numbers_and_nulls() -> None:
    values, reasons = to_tensor(pd.Series([1.5, None, 2.5]), TensorColumn("x", "float32", (1,)))
    assert values.tolist() == [[1.5], [0.0], [2.5]]
    assert reasons.tolist() == ["", "null or NaN", ""]


def test_numbers_for_a_wider_network() -> None:
    _, reasons = to_tensor(pd.Series([1.5]), TensorColumn("x", "float32", (3,)))
    assert reasons.tolist() == ["1 numbers (shape (1,))"]


def test_bytes() -> None:
    rows = pd.Series([b"\x01\xff", None])
    values, reasons = to_tensor(rows, TensorColumn("x", "float32", (2,)))
    assert values.tolist() == [[1, 255], [0, 0]]
    assert reasons.tolist() == ["", "null or NaN"]


def test_all_null() -> None:
    values, reasons = to_tensor(
        pd.Series([None, None], dtype=object), TensorColumn("x", "float32", (2,))
    )
    assert values.shape == (2, 2)
    assert set(reasons) == {"null or NaN"}


def test_numbers_are_not_changed_in_place() -> None:
    source = np.array([1.0, np.nan])
    to_tensor(pd.Series([source]), TensorColumn("x", "float32", (2,)))
    assert np.isnan(source[1])
