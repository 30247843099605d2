from __future__ import annotations

import numpy as np
import pytest

from spark_dlobd.estimators.outputs import derive_outputs, num_classes
from spark_dlobd.job.network import OutputSpec


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
