"""A fitted model as the start of a further fit, with and without its optimizer's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession

from spark_dlobd import (
    DLEstimator,
    DLModel,
    HorovodConfig,
    ParameterServerConfig,
    ShuffleConfig,
)
from spark_dlobd.errors import ConfigurationError
from tests.spark.tiny import X, Y, estimator, linear, squares_step, weights

keras = pytest.importorskip("keras")

RATE, MOMENTUM = 0.01, 0.9


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rows = [(Vectors.dense(x), float(y)) for x, y in zip(X, Y, strict=True)]
    return spark.createDataFrame(rows, ["features", "label"]).coalesce(1).cache()


def momentum(**params: Any) -> DLEstimator:
    net = linear()
    net.compile(keras.optimizers.SGD(RATE, momentum=MOMENTUM), "mse")
    settings: dict[str, Any] = {"optimizer": None, "loss": None, "learningRate": None}
    return estimator(net, **{**settings, **params})


def kernel_after(steps: int, fresh_at: int | None = None, rates: tuple[float, ...] = ()) -> Any:
    """Kernel after gradient descent with momentum, by hand; the velocity is 0 at `fresh_at`."""
    kernel, velocity = np.zeros((2, 1)), np.zeros((2, 1))
    for step in range(steps):
        rate = rates[step] if rates else RATE
        velocity = velocity * (0.0 if step == fresh_at else MOMENTUM)
        velocity = velocity + rate * squares_step(X, Y[:, None] - X @ kernel)
        kernel = kernel + velocity
    return kernel


@pytest.fixture(scope="module")
def kept(table: DataFrame) -> DLModel:
    return momentum(optimizerState="keep").fit(table)


def test_a_fit_goes_on_from_the_network_alone(table: DataFrame, kept: DLModel) -> None:
    first = momentum().fit(table)
    np.testing.assert_allclose(weights(first), kernel_after(1), rtol=1e-5)
    assert not first.hasOptimizerState and kept.hasOptimizerState
    for model in (first, kept):
        est = DLEstimator(model=model, batchSize=8, backend="local", tracking="none", verbose=0)
        second = est.fit(table)
        np.testing.assert_allclose(weights(second), kernel_after(2, fresh_at=1), rtol=1e-5)
        assert not second.hasOptimizerState
    # the given one is as it was
    np.testing.assert_allclose(weights(kept), kernel_after(1), rtol=1e-5)


WORKERS = [
    pytest.param("local", 1, id="local"),
    pytest.param("local", 2, id="virtual"),
    pytest.param(ShuffleConfig(), 2, id="shuffle"),
    pytest.param(HorovodConfig(), 2, id="horovod"),
]


@pytest.mark.parametrize(("backend", "workers"), WORKERS)
def test_two_fits_are_one(table: DataFrame, kept: DLModel, backend: Any, workers: int) -> None:
    est = momentum(backend=backend, numTrainWorkers=workers, optimizerState="resume")
    second = est.setModel(kept).fit(table)
    np.testing.assert_allclose(weights(second), kernel_after(2), rtol=1e-5)
    third = momentum(optimizerState="resume", epochs=2).setModel(second).fit(table)
    np.testing.assert_allclose(weights(third), kernel_after(4), rtol=1e-5)


def test_adam_and_its_step_count(table: DataFrame) -> None:
    settings = {"optimizer": "adam", "learningRate": None}
    whole = estimator(linear(), epochs=3, **settings).fit(table)
    first = estimator(linear(), epochs=1, optimizerState="keep", **settings).fit(table)
    rest = estimator(
        first,
        epochs=2,
        optimizerState="resume",
        backend=ShuffleConfig(),
        numTrainWorkers=2,
        optimizer=None,
        learningRate=None,
    ).fit(table)
    np.testing.assert_allclose(weights(rest), weights(whole), rtol=1e-5)


def test_the_state_is_saved(table: DataFrame, kept: DLModel, tmp_path: Path) -> None:
    kept.save(str(tmp_path / "model"))
    loaded = DLModel.load(str(tmp_path / "model"))
    est = momentum(optimizerState="resume").setModel(loaded)
    est.save(str(tmp_path / "estimator"))
    for one in (est, est.copy(), DLEstimator.load(str(tmp_path / "estimator"))):
        np.testing.assert_allclose(weights(one.fit(table)), kernel_after(2), rtol=1e-5)
    momentum().fit(table).save(str(tmp_path / "without"))
    assert not DLModel.load(str(tmp_path / "without")).hasOptimizerState
    assert not (tmp_path / "without" / "optimizer.npz").exists()


class Halve(keras.callbacks.Callback):  # type: ignore[misc]
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate.assign(RATE / 2)


def test_the_learning_rate_goes_on_unless_it_is_given(table: DataFrame) -> None:
    first = momentum(optimizerState="keep", callbacks=[Halve()]).fit(table)
    est = momentum(optimizerState="resume").setModel(first)
    half = RATE / 2
    np.testing.assert_allclose(weights(est.fit(table)), kernel_after(2, rates=(half, half)), 1e-5)
    given = est.fit(table, {est.learningRate: 0.02})
    np.testing.assert_allclose(weights(given), kernel_after(2, rates=(half, 0.02)), 1e-5)


def test_what_cannot_be_resumed_is_refused(table: DataFrame, kept: DLModel) -> None:
    with pytest.raises(
        ConfigurationError, match=r"needs model=fitted.* fit it with optimizerState"
    ):
        momentum(optimizerState="resume").fit(table)
    with pytest.raises(ConfigurationError, match="needs model=fitted"):
        momentum(optimizerState="resume").setModel(momentum().fit(table)).fit(table)
    with pytest.raises(ConfigurationError, match=r"the model holds: SGD\. Got Adam"):
        momentum(optimizerState="resume", optimizer="adam").setModel(kept).fit(table)
    with pytest.raises(
        ConfigurationError, match=r"needs a state of 1 variables of SGD .* one of 2"
    ):
        momentum(optimizerState="resume", optimizer="sgd").setModel(kept).fit(table)
    changed = kept.copy().setModel(linear())
    assert not changed.hasOptimizerState
    with pytest.raises(ConfigurationError, match="holds no network"):
        DLEstimator(model=DLModel())


@pytest.mark.parametrize("state", ["keep", "resume"])
def test_backends_that_cannot_hand_it_over(table: DataFrame, kept: DLModel, state: str) -> None:
    est = momentum(optimizerState=state, numTrainWorkers=2).setModel(kept)
    with pytest.raises(
        ConfigurationError, match=rf"'{state}' needs a backend .*'parameter_server'"
    ):
        est.fit(table, {est.backend: ParameterServerConfig()})
    with pytest.raises(ConfigurationError, match=r"need sync_every=1\. Got sync_every=2"):
        est.fit(table, {est.backend: ShuffleConfig(sync_every=2)})
