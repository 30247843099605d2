"""Metrics over all rows, and what a task of `DLModel.evaluate` does."""

from __future__ import annotations

import numpy as np
import pytest

from spark_dlobd.errors import DataError
from spark_dlobd.estimators.evaluation import merged_metrics
from spark_dlobd.training.metric_states import MetricStates

keras = pytest.importorskip("keras")


def test_metrics_of_parts_are_those_of_all_rows() -> None:
    x = np.arange(10.0).reshape(5, 2)
    y = np.arange(5.0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    expected = model.evaluate(x, y, verbose=0, return_dict=True)
    states = []
    for part in (slice(0, 1), slice(1, 5)):
        model.evaluate(x[part], y[part], verbose=0)
        states.append(MetricStates(model.metrics).read())
    assert merged_metrics(model, states) == pytest.approx(expected)
    states[0][0] = np.float32(np.nan)
    with pytest.raises(DataError, match="The loss over these rows is nan"):
        merged_metrics(model, states)
