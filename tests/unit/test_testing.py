from __future__ import annotations

import sys

import numpy as np
import pytest

from spark_dlobd import testing
from spark_dlobd.errors import MissingDependencyError


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chispa", None)
    with pytest.raises(MissingDependencyError, match="pip install chispa"):
        testing.assert_predictions_equal(None, None)  # type: ignore[arg-type]


def test_models_are_the_same_for_the_same_seed() -> None:
    first, second = (testing.classifier(4, 3, seed=5).get_weights() for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    other = testing.classifier(4, 3, seed=6).get_weights()
    assert not np.array_equal(first[0], other[0])
    assert [w.shape for w in testing.regressor(3).get_weights()] == [(3, 1), (1,)]
