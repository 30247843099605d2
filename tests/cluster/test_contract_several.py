"""What every backend promises of a network with several inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from spark_dlobd import DLEstimator, LocalConfig
from tests.cluster.test_contract import BACKENDS, CURVE_TOLERANCE

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from spark_dlobd import DLModel

pytestmark = pytest.mark.usefixtures("nothing_left")
LOSSES = {"loss", "clicked_loss", "stars_loss", "clicked_accuracy", "stars_mean_absolute_error"}


@pytest.fixture(scope="module")
def visits(spark: SparkSession) -> DataFrame:
    """203 rows, so that steps and shards are uneven: two inputs, two labels, two weights."""
    rng = np.random.default_rng(3)
    wide, age, visits = rng.normal(size=(203, 3)), rng.normal(size=203), rng.integers(0, 5, 203)
    rows = [
        (
            wide[i].tolist(),
            float(age[i]),
            int(visits[i]),
            int(wide[i, 0] > 0),
            float(wide[i, 1] + age[i]),
            float(0.5 + i % 3),
            float(1 + i % 2),
            i % 6 == 0,
        )
        for i in range(203)
    ]
    schema = (
        "wide array<double>, age double, visits int, clicked int, stars double, w double, "
        "v double, is_val boolean"
    )
    frame = spark.createDataFrame(rows, schema).coalesce(1).cache()
    frame.count()
    return frame


def network() -> Any:
    """Outputs with a loss beside one that has none."""
    keras.utils.set_random_seed(1)
    wide, deep = keras.Input((3,), name="wide"), keras.Input((2,), name="deep")
    hidden = keras.layers.Concatenate()([wide, keras.layers.Dense(4, "relu")(deep)])
    hidden = keras.layers.BatchNormalization()(hidden)
    clicked = keras.layers.Dense(1, "sigmoid", name="clicked")(hidden)
    stars = keras.layers.Dense(1, name="stars")(hidden)
    return keras.Model([wide, deep], {"clicked": clicked, "hidden": hidden, "stars": stars})


def augmentation() -> Any:
    """By the step's seed and by a layer; one output has no label.

    A function of a function, as workers know no module of the tests.
    """
    noise = keras.layers.GaussianNoise(0.2)

    def blurred(x: Any, y: Any, seed: Any) -> Any:
        wide, deep = x
        shift = tf.random.stateless_normal(tf.shape(wide), seed, stddev=0.3)
        return (wide + shift, noise(deep, training=True)), {**y, "stars": y["stars"] * 0.9}

    return blurred


def fit(df: DataFrame, backend: Any, transformation: Any = None) -> DLModel:
    return DLEstimator(
        model=network(),
        transformation=transformation,
        inputs={"wide": "wide", "deep": ["age", "visits"]},
        labels={"clicked": "clicked", "stars": "stars"},
        weightCol={"clicked": "w", "stars": "v"},
        loss={"clicked": "binary_crossentropy", "stars": "mse"},
        lossWeights={"stars": 0.5},
        metrics={"clicked": ["accuracy"], "stars": [keras.metrics.MeanAbsoluteError()]},
        validationIndicatorCol="is_val",
        optimizer="sgd",
        learningRate=0.05,
        backend=backend,
        numTrainWorkers=2,
        batchSize=25,
        epochs=2,
        seed=5,
        tracking="none",
        verbose=0,
        outputCols={"stars_prediction": "expected_stars"},
    ).fit(df)


@pytest.fixture(scope="module")
def reference(visits: DataFrame) -> DLModel:
    return fit(visits, LocalConfig(), augmentation())


@pytest.fixture(scope="module", params=sorted(set(BACKENDS) - {"local"}))
def trained(request: pytest.FixtureRequest, visits: DataFrame) -> DLModel:
    return fit(visits, BACKENDS[request.param], augmentation())


def test_curves_are_those_of_virtual_workers(trained: DLModel, reference: DLModel) -> None:
    assert set(trained.history) == LOSSES | {f"val_{name}" for name in LOSSES}
    if trained.report["backend"] == "parameter_server":
        pytest.skip("asynchronous updates: no two runs are equal")
    for name, values in reference.history.items():
        np.testing.assert_allclose(
            trained.history[name], values, rtol=CURVE_TOLERANCE, err_msg=name
        )


def test_batches_that_train_are_transformed(
    trained: DLModel, reference: DLModel, visits: DataFrame
) -> None:
    assert trained.report["transformation"] == {"name": "blurred", "traced": True}
    plain = fit(visits, LocalConfig())
    assert "transformation" not in plain.report
    assert abs(plain.history["loss"][0] / reference.history["loss"][0] - 1) > 1e-3
    assert abs(trained.history["loss"][0] / reference.history["loss"][0] - 1) < 0.1


def test_history_ends_with_what_keras_says_of_the_fitted_network(
    trained: DLModel, visits: DataFrame
) -> None:
    held = visits.filter("is_val").toPandas()
    x = (np.stack(held.wide), held[["age", "visits"]].to_numpy())
    model = trained.getKerasModel()
    model.compile(
        loss={"clicked": "binary_crossentropy", "stars": "mse", "hidden": None},
        loss_weights={"clicked": 1.0, "stars": 0.5, "hidden": 1.0},
    )
    y = {"clicked": held.clicked.to_numpy(), "stars": held.stars.to_numpy(), "hidden": None}
    weights = {"clicked": held.w.to_numpy(), "stars": held.v.to_numpy(), "hidden": None}
    found = model.evaluate(x, y, sample_weight=weights, batch_size=64, verbose=0, return_dict=True)
    assert trained.history["val_loss"][-1] == pytest.approx(found["loss"], rel=1e-5)
    assert trained.evaluate(visits.filter("is_val"))["loss"] == pytest.approx(
        found["loss"], rel=1e-5
    )


def test_scores_are_those_of_the_network(trained: DLModel, visits: DataFrame) -> None:
    scored = trained.transform(visits)
    assert set(scored.columns) - set(visits.columns) == {
        "clicked_rawPrediction",
        "clicked_probability",
        "clicked_prediction",
        "expected_stars",
        "hidden_prediction",
    }
    rows = scored.toPandas()
    x = (np.stack(rows.wide), rows[["age", "visits"]].to_numpy())
    found = trained.getKerasModel().predict(x, batch_size=256, verbose=0)
    np.testing.assert_allclose(rows.expected_stars, found["stars"][:, 0], rtol=1e-5, atol=1e-6)
    clicked = np.stack(rows.clicked_probability.map(lambda vector: vector.toArray()))[:, 1]
    np.testing.assert_allclose(clicked, found["clicked"][:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        np.stack(rows.hidden_prediction), found["hidden"], rtol=1e-5, atol=1e-6
    )
