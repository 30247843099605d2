"""What of Keras keeps working inside the estimator."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dlobd import DLEstimator
from tests.spark.tiny import ROWS, X, Y, estimator, linear, squares_step, weights

keras = pytest.importorskip("keras")

STEP = squares_step(X, Y)
WORKERS = pytest.mark.parametrize("workers", [1, 3])


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rows = [(i, Vectors.dense(x), float(y)) for i, (x, y) in enumerate(zip(X, Y, strict=True))]
    return spark.createDataFrame(rows, ["id", "features", "label"]).coalesce(2).cache()


def descent(steps: int, rates: float | list[float], rows: Any = slice(None)) -> Any:
    """Kernel after several steps over all rows."""
    kernel = np.zeros((2, 1))
    for index in range(steps):
        rate = rates[index] if isinstance(rates, list) else rates
        residual = Y[rows, None] - X[rows] @ kernel
        kernel = kernel + rate * squares_step(X[rows], residual)
    return kernel


SGD = {"class_name": "SGD", "config": {"learning_rate": 0.5}}


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "loss": "mean_squared_error", "metrics": ["mae"]},
        {
            "optimizer": keras.optimizers.SGD(0.5),
            "loss": keras.losses.MeanSquaredError(),
            "metrics": [keras.metrics.MeanAbsoluteError(name="mae")],
        },
        {
            "optimizer": SGD,
            "loss": keras.losses.serialize(keras.losses.MeanSquaredError()),
            "metrics": [keras.metrics.serialize(keras.metrics.MeanAbsoluteError(name="mae"))],
        },
    ],
    ids=["names", "instances", "configs"],
)
def test_compile_arguments(table: DataFrame, settings: dict[str, Any]) -> None:
    model = estimator(linear(), **{**settings, "learningRate": 0.01}).fit(table)
    np.testing.assert_allclose(weights(model), 0.01 * STEP, rtol=1e-5)
    assert model.history["mae"] == pytest.approx([np.mean(np.abs(Y))], rel=1e-6)
    assert model.getKerasModel().optimizer.learning_rate.numpy() == pytest.approx(0.01)


def test_the_model_is_trained_as_it_was_compiled(table: DataFrame) -> None:
    net = linear()
    net.compile(keras.optimizers.SGD(0.02), "mse", metrics=["mae"])
    plain = DLEstimator(model=net, batchSize=ROWS, backend="local", tracking="none", verbose=0)
    model = plain.fit(table)
    np.testing.assert_allclose(weights(model), 0.02 * STEP, rtol=1e-5)
    assert set(model.history) == {"loss", "mae"}
    other = plain.copy({plain.learningRate: 0.01, plain.metrics: ["mse"]}).fit(table)
    np.testing.assert_allclose(weights(other), 0.01 * STEP, rtol=1e-5)
    assert set(other.history) == {"loss", "mse"}


def test_adam_is_the_default_optimizer(table: DataFrame) -> None:
    model = estimator(linear(), optimizer=None, learningRate=None).fit(table)
    # Adam's first step has the size of its learning rate, 0.001.
    np.testing.assert_allclose(weights(model), 0.001 * np.sign(STEP), rtol=1e-3)


@keras.saving.register_keras_serializable("estimator_keras")
class Scaling(keras.layers.Layer):  # type: ignore[misc]
    def __init__(self, factor: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._factor = factor

    def call(self, inputs: Any) -> Any:
        return self._factor * inputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self._factor}


@keras.saving.register_keras_serializable("estimator_keras")
class Squares(keras.losses.Loss):  # type: ignore[misc]
    def __init__(self, factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._factor = factor

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._factor * (y_pred[:, 0] - y_true) ** 2

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self._factor}


@WORKERS
def test_custom_layer_and_loss(table: DataFrame, workers: int) -> None:
    net = keras.Sequential([keras.Input((2,)), Scaling(3.0), linear().layers[-1]])
    model = estimator(net, loss=Squares(factor=0.25), numTrainWorkers=workers).fit(table)
    np.testing.assert_allclose(weights(model), 0.25 * 3 * STEP, rtol=1e-5)
    first = model.transform(table).orderBy("id").first()
    assert first is not None
    assert first.prediction == pytest.approx(float((3 * X[0] @ (0.75 * STEP))[0]), rel=1e-5)


@keras.saving.register_keras_serializable("estimator_keras")
class Halving(keras.Sequential):  # type: ignore[misc]
    """Applies half of the gradient."""

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply([g / 2 for g in gradients], self.trainable_variables)
        return {"halved": loss / 2}


@WORKERS
def test_custom_train_step(table: DataFrame, workers: int) -> None:
    net = Halving(linear().layers)
    net.build((None, 2))
    model = estimator(net, numTrainWorkers=workers, learningRate=0.1).fit(table)
    np.testing.assert_allclose(weights(model), 0.05 * STEP, rtol=1e-5)
    assert set(model.history) == {"halved"}


@pytest.mark.parametrize(
    "options",
    [{"steps_per_execution": 3}, {"jit_compile": True}, {"run_eagerly": True}],
    ids=lambda options: next(iter(options)),
)
@WORKERS
def test_ways_of_running_a_step(table: DataFrame, options: dict[str, Any], workers: int) -> None:
    net = linear()
    net.compile(keras.optimizers.SGD(0.01), "mse", **options)
    settings = {"optimizer": None, "loss": None, "learningRate": None, "numTrainWorkers": workers}
    full = estimator(net, epochs=2, **settings).fit(table)
    np.testing.assert_allclose(weights(full), descent(2, 0.01), rtol=1e-5)
    # Eight rows by three: two steps, of which the last has what is left.
    tail = estimator(net, batchSize=3, epochs=2, **settings).fit(table)
    plain = estimator(
        linear(), batchSize=3, epochs=2, learningRate=0.01, numTrainWorkers=workers
    ).fit(table)
    np.testing.assert_allclose(weights(tail), weights(plain), rtol=1e-5)
    assert tail.history["loss"] == pytest.approx(plain.history["loss"], rel=1e-5)


@WORKERS
def test_mixed_precision(table: DataFrame, workers: int) -> None:
    net = linear(dtype="mixed_bfloat16")
    model = estimator(net, learningRate=0.01, numTrainWorkers=workers).fit(table)
    assert model.getKerasModel().layers[-1].dtype_policy.name == "mixed_bfloat16"
    kernel = weights(model)
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel, 0.01 * STEP, rtol=0.02)
    first = model.transform(table).orderBy("id").first()
    assert first is not None
    assert first.prediction == pytest.approx(float((X[0] @ (0.01 * STEP))[0]), rel=0.02)


@WORKERS
def test_loss_scaling(table: DataFrame, workers: int) -> None:
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=8.0)
    model = estimator(
        linear(), optimizer=scaled, learningRate=0.01, epochs=2, numTrainWorkers=workers
    ).fit(table)
    np.testing.assert_allclose(weights(model), descent(2, 0.01), rtol=1e-5)


@WORKERS
def test_embeddings_of_whole_numbers(table: DataFrame, workers: int) -> None:
    df = table.select("id", F.expr("array(int(id), int(id % 3))").alias("features"), "label")
    net = keras.Sequential(
        [
            keras.Input((2,), dtype="int32"),
            keras.layers.Embedding(ROWS, 1, embeddings_initializer="zeros"),
            keras.layers.Flatten(),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"),
        ]
    )
    model = estimator(net, numTrainWorkers=workers).fit(df)
    expected = np.zeros(ROWS)
    for index in range(ROWS):
        # y - 0 through a kernel of ones, for both numbers of the row.
        expected[index] += 2 / ROWS * Y[index]
        expected[index % 3] += 2 / ROWS * Y[index]
    np.testing.assert_allclose(
        model.getKerasModel().get_weights()[0][:, 0], expected, rtol=1e-5, atol=1e-6
    )


def test_early_stopping(table: DataFrame) -> None:
    stop = keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=2)
    model = estimator(linear(), learningRate=0.01, epochs=9, callbacks=[stop]).fit(table)
    # The first epoch is the best; two without improvement follow.
    assert len(model.history["loss"]) == 3
    np.testing.assert_allclose(weights(model), descent(3, 0.01), rtol=1e-5)
    assert stop.stopped_epoch == 0


def test_early_stopping_gives_the_best_weights_back(table: DataFrame) -> None:
    stop = keras.callbacks.EarlyStopping(
        "loss", min_delta=1e9, patience=1, restore_best_weights=True
    )
    model = estimator(linear(), learningRate=0.01, epochs=9, callbacks=[stop]).fit(table)
    np.testing.assert_allclose(weights(model), descent(1, 0.01), rtol=1e-5)


@WORKERS
def test_learning_rate_schedule(table: DataFrame, workers: int) -> None:
    rates = [0.01, 0.03, 0.02]
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, _: rates[epoch])
    model = estimator(linear(), epochs=3, numTrainWorkers=workers, callbacks=[schedule]).fit(table)
    np.testing.assert_allclose(weights(model), descent(3, rates), rtol=1e-5)
    assert model.history["learning_rate"] == pytest.approx(rates)


class Counting(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.epochs: list[int] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        self.path.write_text(repr(self.epochs))


def test_callbacks_are_copied_for_every_fit(table: DataFrame, tmp_path: Path) -> None:
    counting = Counting(tmp_path / "epochs")
    est = estimator(linear(), learningRate=0.01, epochs=2, callbacks=[counting])
    for _ in range(2):
        est.fit(table)
        assert counting.path.read_text() == "[0, 1]"
    assert counting.epochs == [] and est.callbacks == (counting,)


def test_checkpoints_are_written_once(table: DataFrame, tmp_path: Path) -> None:
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    model = estimator(
        linear(), learningRate=0.01, epochs=2, numTrainWorkers=2, callbacks=callbacks
    ).fit(table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.keras", "2.keras", "log.csv"]
    last = keras.saving.load_model(tmp_path / "2.keras")
    np.testing.assert_array_equal(last.get_weights()[0], weights(model))
    with open(tmp_path / "log.csv") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses == pytest.approx(model.history["loss"])


def test_metrics_are_those_of_all_rows(table: DataFrame) -> None:
    # Eight rows over three workers in steps of five: uneven everywhere.
    model = estimator(
        linear(), learningRate=1e-30, batchSize=5, numTrainWorkers=3, metrics=["mae"]
    ).fit(table)
    assert model.history["loss"] == pytest.approx([np.mean(Y**2)], rel=1e-6)
    assert model.history["mae"] == pytest.approx([np.mean(np.abs(Y))], rel=1e-6)


def test_the_global_policy_does_not_change_the_model(table: DataFrame) -> None:
    est = estimator(linear(), learningRate=0.01)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = est.fit(table)
        np.testing.assert_allclose(weights(model), 0.01 * STEP, rtol=1e-5)
        assert model.getKerasModel().layers[-1].compute_dtype == "float32"
    finally:
        keras.config.set_dtype_policy(before)


def test_the_drivers_random_numbers_go_on(table: DataFrame) -> None:
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.random()
    random.seed(5)
    np.random.seed(5)
    estimator(linear(), learningRate=0.01).fit(table)
    assert (random.random(), np.random.random()) == expected


class Stopping(keras.callbacks.Callback):  # type: ignore[misc]
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.stop_training = True


@WORKERS
def test_stopping_within_an_epoch(table: DataFrame, workers: int) -> None:
    net = keras.Sequential(
        [keras.Input((2,)), keras.layers.BatchNormalization(momentum=0.0), keras.layers.Dense(1)]
    )
    model = estimator(
        net,
        batchSize=4,
        epochs=3,
        shuffle=False,
        learningRate=0.01,
        numTrainWorkers=workers,
        callbacks=[Stopping()],
    ).fit(table.coalesce(1))
    assert len(model.history["loss"]) == 1
    # Three workers have rows 0-1, 2-3 and 4-7, of which the first step takes 1, 1 and 2.
    shares = [[0, 1, 2, 3]] if workers == 1 else [[0], [2], [4, 5]]
    expected = np.mean([X[share].mean(0) for share in shares], axis=0)
    moving_mean = model.getKerasModel().layers[0].moving_mean
    np.testing.assert_allclose(moving_mean, expected, rtol=1e-5)
