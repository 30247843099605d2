"""What every backend promises of frozen layers: not a bit of them changes until they train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest

from spark_dlobd import DLEstimator, DLModel
from tests.cluster.test_contract import BACKENDS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.usefixtures("nothing_left")
FROZEN = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    """103 rows, so that steps and shards are uneven."""
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 3, 103)
    features = rng.normal(size=(103, 5)) + labels[:, None]
    rows = [(x.tolist(), int(y)) for x, y in zip(features, labels, strict=True)]
    frame = spark.createDataFrame(rows, "features array<double>, label int").coalesce(1).cache()
    frame.count()
    return frame


def network() -> Any:
    """A base with a BatchNormalization that stands still, and a head with one that moves."""
    keras.utils.set_random_seed(1)
    base = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(7, "relu"),
            keras.layers.BatchNormalization(name="still"),
        ],
        name="base",
    )
    rng = np.random.default_rng(5)
    base.set_weights([rng.uniform(0.1, 1, w.shape) for w in base.get_weights()])
    base.trainable = False
    head = [keras.layers.BatchNormalization(name="moves"), keras.layers.Dense(3, "softmax")]
    return keras.Sequential([keras.Input((5,)), base, *head])


def fit(df: DataFrame, model: Any, backend: Any) -> DLModel:
    return DLEstimator(
        model=model,
        loss="sparse_categorical_crossentropy",
        optimizer="adam",
        backend=backend,
        numTrainWorkers=2,
        batchSize=25,
        epochs=2,
        seed=5,
        tracking="none",
        verbose=0,
    ).fit(df)


def weights_of(layer: Any) -> dict[str, Any]:
    return {variable.path.rpartition("/")[2]: np.asarray(variable) for variable in layer.weights}


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_frozen_base_stands_still_until_it_is_trained(table: DataFrame, backend: str) -> None:
    start = network()
    first = fit(table, start, BACKENDS[backend])
    trained = first.getKerasModel()
    before, after = weights_of(start.get_layer("base")), weights_of(trained.get_layer("base"))
    assert set(before) == set(FROZEN)
    for name, value in before.items():
        assert after[name].tobytes() == value.tobytes(), name
    assert not trained.get_layer("base").trainable
    moved = weights_of(trained.get_layer("moves"))
    for name, value in weights_of(start.get_layer("moves")).items():
        assert (moved[name] != value).all(), name

    trained.get_layer("base").trainable = True
    second = fit(table, first.copy().setModel(trained), BACKENDS[backend])
    tuned = weights_of(second.getKerasModel().get_layer("base"))
    for name, value in after.items():
        assert (tuned[name] != value).any(), name
    assert second.history["loss"][0] < first.history["loss"][0]
    assert second.evaluate(table)["loss"] < first.evaluate(table)["loss"]
