"""The shuffle backend in a local session gives what the local backend gives.

tests/unit/test_shuffle_stages.py has more optimizers, wires and kinds of steps.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_dlobd import DLEstimator, DLModel, LocalConfig, ShuffleConfig
from spark_dlobd.errors import ConfigurationError, WorkerError
from spark_dlobd.testing import blobs

keras = pytest.importorskip("keras")

TOLERANCE = 1e-5
ROWS = 103
SHUFFLE = ShuffleConfig()


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    """103 rows, so that steps and shards are uneven, with weights and a validation column."""
    draw = np.random.default_rng(7)
    labels = draw.integers(0, 3, ROWS)
    features = draw.normal(size=(ROWS, 5)) + labels[:, None]
    weights = draw.uniform(0.5, 2.0, ROWS)
    rows = [
        (x.tolist(), int(y), float(w), i % 6 == 0)
        for i, (x, y, w) in enumerate(zip(features, labels, weights, strict=True))
    ]
    schema = "features array<double>, label int, weight double, is_val boolean"
    frame = spark.createDataFrame(rows, schema).coalesce(1).cache()
    frame.count()
    return frame


def network(*layers: Any) -> Any:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((5,)), *layers, keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
    )


def estimator(backend: Any, optimizer: Any = "sgd", **params: Any) -> DLEstimator:
    settings: dict[str, Any] = {
        "model": network(),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
        "numTrainWorkers": 2,
        "batchSize": 20,
        "epochs": 2,
        "seed": 5,
        "tracking": "none",
        "verbose": 0,
    }
    return DLEstimator(optimizer=optimizer, backend=backend, **{**settings, **params})


def both(table: DataFrame, config: Any = SHUFFLE, **params: Any) -> tuple[DLModel, DLModel]:
    """The same fit through the shuffle and in this process."""
    return (
        estimator(config, **params).fit(table),
        estimator(LocalConfig(), **params).fit(table),
    )


def assert_close(fits: tuple[DLModel, DLModel], tolerance: float = TOLERANCE) -> None:
    actual, expected = fits
    assert actual.report["backend"] == "shuffle"
    assert set(actual.history) == set(expected.history)
    for name, values in expected.history.items():
        np.testing.assert_allclose(actual.history[name], values, rtol=tolerance, err_msg=name)
    for mine, other in zip(weights(actual), weights(expected), strict=True):
        np.testing.assert_allclose(mine, other, rtol=10 * tolerance, atol=tolerance)


def assert_same(actual: DLModel, expected: DLModel) -> None:
    """Bit for bit."""
    assert actual.history == expected.history
    assert actual.report["weights_hash"] == expected.report["weights_hash"]


def weights(model: DLModel) -> list[Any]:
    return model.getKerasModel().get_weights()  # type: ignore[no-any-return]


o = keras.optimizers


@keras.saving.register_keras_serializable("spark_shuffle")
class Scaling(keras.layers.Layer):  # type: ignore[misc]
    """Has one weight that it uses and one that it does not."""

    def build(self, shape: Any) -> None:
        self.used = self.add_weight(shape=(5,), name="used", initializer="ones")
        self.idle = self.add_weight(shape=(5,), name="idle", initializer="ones")

    def call(self, x: Any) -> Any:
        return x * self.used


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_everything_at_once(table: DataFrame) -> None:
    """Also a custom layer with a weight that gets no gradient, and a frozen layer."""
    layers = keras.layers
    frozen = layers.Dense(4, name="frozen")
    model = network(Scaling(), frozen, layers.BatchNormalization(), layers.Dropout(0.3))
    frozen.trainable = False
    before = frozen.get_weights()[0]
    fits = both(
        table,
        model=model,
        optimizer=o.AdamW(0.01, weight_decay=0.5),
        weightCol="weight",
        classWeight={0: 2.0, 2: 0.5},
        validationIndicatorCol="is_val",
        numTrainWorkers=3,
    )
    assert_close(fits)
    assert set(fits[0].history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    trained = fits[0].getKerasModel()
    used, idle = trained.layers[0].get_weights()
    assert (idle == 1).all() and (used != 1).all()
    np.testing.assert_array_equal(trained.get_layer("frozen").get_weights()[0], before)


@keras.saving.register_keras_serializable("spark_shuffle")
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


def test_custom_train_step(table: DataFrame) -> None:
    model = Halving(network().layers)
    model.build((None, 5))
    shuffled, local = both(table, model=model, optimizer=o.SGD(0.1), metrics=None)
    # what a step returns is no metric over all rows: of workers each, then their mean
    assert set(shuffled.history) == set(local.history) == {"halved"}
    for mine, other in zip(weights(shuffled), weights(local), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


class ChangesWeights(keras.callbacks.Callback):  # type: ignore[misc]
    """Halves the weights when training and epochs begin or end."""

    def __init__(self, event: str) -> None:
        super().__init__()
        setattr(self, event, self._halve)

    def _halve(self, *_: Any) -> None:
        self.model.set_weights([value / 2 for value in self.model.get_weights()])


class Watching(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes down where it runs, what it hears and what it sees; stops after some batches."""

    def __init__(self, folder: Path, stop_at: int | None = None) -> None:
        super().__init__()
        self._folder = folder
        self._stop_at = stop_at

    def _note(self, name: str, text: Any) -> None:
        with open(self._folder / name, "a") as file:
            file.write(f"{text}\n")

    def on_train_begin(self, logs: Any = None) -> None:
        self._note("pid", os.getpid())

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._note("batches", batch)
        self._note("losses", logs["loss"])
        self.model.stop_training = self.model.stop_training or batch == self._stop_at

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._note("sums", float(np.abs(self.model.get_weights()[0]).sum()))


def lines(path: Path) -> list[str]:
    return path.read_text().split()


def test_callbacks_run_on_the_driver(table: DataFrame, tmp_path: Path) -> None:
    """The learning rate and weights that callbacks set are trained with; checkpoints of epochs."""
    model = network(keras.layers.BatchNormalization())
    changing = [
        keras.callbacks.LearningRateScheduler(lambda epoch, _: [0.05, 0.01][epoch]),
        ChangesWeights("on_train_begin"),
        ChangesWeights("on_epoch_begin"),
        ChangesWeights("on_epoch_end"),
    ]
    looking = [
        Watching(tmp_path),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    shuffled = estimator(SHUFFLE, "adam", model=model, callbacks=[*changing, *looking]).fit(table)
    local = estimator(LocalConfig(), "adam", model=model, callbacks=changing).fit(table)
    assert_close((shuffled, local))
    assert shuffled.history["learning_rate"] == pytest.approx([0.05, 0.01])
    assert lines(tmp_path / "pid") == [str(os.getpid())]
    assert lines(tmp_path / "batches") == [str(step) for step in range(6)] * 2
    sums = [float(text) for text in lines(tmp_path / "sums")]
    assert sums[0] != sums[1] == float(np.abs(weights(shuffled)[0]).sum())
    assert {"1.keras", "2.keras", "log.csv"} < {path.name for path in tmp_path.iterdir()}
    saved = keras.saving.load_model(tmp_path / "2.keras").get_weights()
    for mine, other in zip(weights(shuffled), saved, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_plateaus_and_early_stopping(table: DataFrame) -> None:
    # at the end of the second epoch the rate falls, at that of the third training ends
    callbacks = [
        keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9),
        keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=2, restore_best_weights=True),
    ]
    model = network(keras.layers.BatchNormalization())
    optimizer = o.Adam(0.05)
    fits = both(
        table, model=model, optimizer=optimizer, epochs=4, numTrainWorkers=1, callbacks=callbacks
    )
    assert_close(fits)
    assert fits[0].history["learning_rate"] == pytest.approx([0.05, 0.05, 0.025])


def test_callback_that_raises(table: DataFrame) -> None:
    class Wrong(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise ZeroDivisionError("the callback's mistake")

    with pytest.raises(WorkerError) as caught:
        estimator(SHUFFLE, callbacks=[Wrong()]).fit(table)
    error = caught.value
    assert error.host == "the driver"
    assert error.phase == "end of epoch 0"
    assert "ZeroDivisionError: the callback's mistake" in error.message
    assert "in on_epoch_end" in error.worker_traceback


def test_stopping_within_an_epoch_waits_for_the_end_of_the_job(
    table: DataFrame, tmp_path: Path
) -> None:
    config = ShuffleConfig(iterations_per_job=4)
    model = estimator(config, o.SGD(0.1), callbacks=[Watching(tmp_path, stop_at=0)]).fit(table)
    assert lines(tmp_path / "batches") == ["0", "1", "2", "3"]
    assert len(model.history["loss"]) == 1
    assert model.report["synchronizations"] == 4


def normalized(config: ShuffleConfig) -> DLEstimator:
    model = network(keras.layers.BatchNormalization(), keras.layers.Dropout(0.3))
    return estimator(config, o.Adam(0.01, global_clipnorm=1.0), model=model)


@pytest.fixture(scope="module")
def undisturbed(table: DataFrame) -> DLModel:
    return normalized(SHUFFLE).fit(table)


def test_report_says_how_the_parameters_were_cut(undisturbed: DLModel) -> None:
    report = undisturbed.report
    # of BatchNorm gamma and beta
    assert report["weights"] == 2 * 5 + 5 * 8 + 8 + 8 * 3 + 3 == 85
    assert report["slices"] == [43, 42]
    assert report["cut"] == "Adam updates each element by itself"
    assert report["transport"] == "spark shuffle: fp32"
    assert report["synchronizations"] == 2 * report["steps_per_epoch"] == 12
    assert (report["slice_state"], report["restarts"]) == ("host", 0)
    assert report["phase_seconds"]["compute"] > 0


@pytest.mark.parametrize(
    "config",
    [
        ShuffleConfig(state="host", iterations_per_job=1),
        ShuffleConfig(state="shuffle", iterations_per_job=100),
    ],
    ids=["host-1", "shuffle-100"],
)
def test_where_the_state_is_and_how_long_jobs_are_changes_no_bit(
    table: DataFrame, undisturbed: DLModel, config: ShuffleConfig
) -> None:
    other = normalized(config).fit(table)
    assert_same(other, undisturbed)
    assert other.report["slice_state"] == config.state


def test_narrow_wire(table: DataFrame, undisturbed: DLModel) -> None:
    model = normalized(ShuffleConfig(wire="bf16", error_feedback=True)).fit(table)
    np.testing.assert_allclose(model.history["loss"], undisturbed.history["loss"], rtol=2e-2)
    assert model.history["loss"] != undisturbed.history["loss"]
    assert model.report["transport"] == "spark shuffle: bf16"


@keras.saving.register_keras_serializable("spark_shuffle")
class Relative(keras.optimizers.Adam):  # type: ignore[misc]
    """Looks at all gradients at once."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        largest = keras.ops.max(keras.ops.abs(grads[0]))
        super().apply([g / (1 + largest) for g in grads], trainable_variables)


def test_averaged_weights_learn(spark: SparkSession) -> None:
    """With local steps nothing is cut, so an optimizer may look at all gradients."""
    model = estimator(
        ShuffleConfig(sync_every=4, iterations_per_job=3),
        Relative(0.1),
        model=keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]),
        epochs=8,
    ).fit(blobs(spark, rows=200))
    assert model.history["loss"][-1] < model.history["loss"][0] / 4
    assert model.history["accuracy"][-1] > 0.98
    # of ten steps an epoch the last synchronization has two
    assert model.report["synchronizations"] == 8 * 3
    assert model.report["cut"] == "between workers' weights"


@pytest.mark.parametrize("name", ["SwapEMAWeights", "BackupAndRestore"])
def test_callbacks_that_need_the_optimizers_state_are_refused(
    table: DataFrame, tmp_path: Path, name: str
) -> None:
    callback = getattr(keras.callbacks, name)(*([str(tmp_path)] if name[0] == "B" else []))
    with pytest.raises(ConfigurationError, match=rf"{name} does not work with backend='shuffle'"):
        estimator(SHUFFLE, callbacks=[callback]).fit(table)


def test_an_optimizer_that_cannot_be_cut_is_refused_before_any_job(table: DataFrame) -> None:
    with pytest.raises(ConfigurationError, match=r"Relative cannot be cut.*backend='horovod'"):
        estimator(SHUFFLE, Relative(0.1)).fit(table)


# tests/unit/test_backends.py has the whole rule
def test_auto_needs_nothing_but_spark(table: DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, package=None: None if name in ("horovod", "mpi4py") else found(name, package),
    )
    model = estimator("auto", epochs=1).fit(table)
    assert model.report["backend"] == "shuffle"
    reason = "auto: several workers, and neither Horovod nor MPI is"
    assert model.report["backend_reason"].startswith(reason)
