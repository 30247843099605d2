"""The shuffle backend in a local session gives what the local backend gives."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_dlobd import DLEstimator, DLModel, LocalConfig, ShuffleConfig
from spark_dlobd.errors import ConfigurationError
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
OPTIMIZERS = {
    "sgd": lambda: o.SGD(0.1),
    "momentum": lambda: o.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: o.Adam(0.01),
    "adamw": lambda: o.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: o.RMSprop(0.01, momentum=0.5, centered=True),
    "global_clipnorm": lambda: o.Adam(0.01, global_clipnorm=0.1),
    "average_at_times": lambda: o.SGD(
        0.5, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3
    ),
    "schedule": lambda: o.SGD(o.schedules.ExponentialDecay(0.5, 2, 0.5)),
    "accumulation": lambda: o.SGD(0.5, gradient_accumulation_steps=2),
    "lamb": lambda: o.Lamb(0.01),
}


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        ("adam", 1),
        ("adam", 3),
        # tests/unit/test_shuffle_optimizer.py has further ways to clip and to average
        *[(name, 2) for name in OPTIMIZERS],
    ],
)
def test_optimizers(table: DataFrame, name: str, workers: int) -> None:
    fits = both(table, optimizer=OPTIMIZERS[name](), numTrainWorkers=workers)
    assert_close(fits)
    assert fits[0].history["loss"][0] != fits[0].history["loss"][1]


def test_report_says_how_the_parameters_were_cut(table: DataFrame) -> None:
    model = estimator(SHUFFLE, "adam", numTrainWorkers=2).fit(table)
    report = model.report
    assert report["weights"] == 5 * 8 + 8 + 8 * 3 + 3 == 75
    assert report["slices"] == [38, 37]
    assert report["cut"] == "Adam updates each element by itself"
    assert report["transport"] == "spark shuffle: fp32"
    assert report["synchronizations"] == 2 * report["steps_per_epoch"] == 12
    assert (report["slice_state"], report["restarts"]) == ("host", 0)
    assert report["phase_seconds"]["compute"] > 0
    assert estimator(SHUFFLE, o.Lamb(0.01)).fit(table).report["slices"] == [40, 35]


def test_everything_at_once(table: DataFrame) -> None:
    model = network(keras.layers.BatchNormalization(), keras.layers.Dropout(0.3))
    fits = both(
        table,
        model=model,
        optimizer="adam",
        weightCol="weight",
        classWeight={0: 2.0, 2: 0.5},
        validationIndicatorCol="is_val",
        numTrainWorkers=3,
        epochs=3,
    )
    assert_close(fits)
    assert set(fits[0].history) == {"loss", "accuracy", "val_loss", "val_accuracy"}


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


@keras.saving.register_keras_serializable("spark_shuffle")
class Scaling(keras.layers.Layer):  # type: ignore[misc]
    """Has one weight that it uses and one that it does not."""

    def build(self, shape: Any) -> None:
        self.used = self.add_weight(shape=(5,), name="used", initializer="ones")
        self.idle = self.add_weight(shape=(5,), name="idle", initializer="ones")

    def call(self, x: Any) -> Any:
        return x * self.used


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_custom_layer_with_a_weight_that_gets_no_gradient(table: DataFrame) -> None:
    fits = both(table, model=network(Scaling()), optimizer=o.AdamW(0.01, weight_decay=0.5))
    assert_close(fits)
    used, idle = weights(fits[0])[:2]
    assert (idle == 1).all() and (used != 1).all()


def test_frozen_layers(table: DataFrame) -> None:
    model = network(keras.layers.Dense(4, name="frozen"), keras.layers.BatchNormalization())
    model.get_layer("frozen").trainable = False
    before = model.get_layer("frozen").get_weights()[0]
    fits = both(table, model=model, optimizer=o.Adam(0.01))
    assert_close(fits)
    after = fits[0].getKerasModel().get_layer("frozen").get_weights()[0]
    np.testing.assert_array_equal(after, before)


def test_compiled_step(table: DataFrame) -> None:
    model = network()
    model.compile(o.Adam(0.01), "mse", jit_compile=True)
    assert_close(both(table, model=model, optimizer=None))


class ChangesWeights(keras.callbacks.Callback):  # type: ignore[misc]
    """Halves the weights when training and epochs begin or end."""

    def __init__(self, event: str) -> None:
        super().__init__()
        setattr(self, event, self._halve)

    def _halve(self, *_: Any) -> None:
        self.model.set_weights([value / 2 for value in self.model.get_weights()])


CALLBACKS: dict[str, Any] = {
    "scheduler": lambda: keras.callbacks.LearningRateScheduler(lambda e, _: [0.5, 0.1, 0.2][e]),
    "plateau": lambda: keras.callbacks.ReduceLROnPlateau(
        "loss", factor=0.5, patience=0, min_delta=1e9
    ),
    "early": lambda: keras.callbacks.EarlyStopping(
        "loss", min_delta=1e9, patience=1, restore_best_weights=True
    ),
    "weights_before": lambda: ChangesWeights("on_train_begin"),
    "weights_at_begin": lambda: ChangesWeights("on_epoch_begin"),
    "weights_at_end": lambda: ChangesWeights("on_epoch_end"),
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_of_keras(table: DataFrame, name: str) -> None:
    model = network(keras.layers.BatchNormalization())
    fits = both(table, model=model, optimizer=o.Adam(0.05), epochs=3, callbacks=[CALLBACKS[name]()])
    assert_close(fits)
    assert len(fits[0].history["loss"]) == (2 if name == "early" else 3)
    assert ("learning_rate" in fits[0].history) is (name in ("scheduler", "plateau"))


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
    model = estimator(SHUFFLE, o.SGD(0.1), callbacks=[Watching(tmp_path)]).fit(table)
    assert lines(tmp_path / "pid") == [str(os.getpid())]
    assert lines(tmp_path / "batches") == [str(step) for step in range(6)] * 2
    sums = [float(text) for text in lines(tmp_path / "sums")]
    assert sums[0] != sums[1] == float(np.abs(weights(model)[0]).sum())


def test_stopping_within_an_epoch_waits_for_the_end_of_the_job(
    table: DataFrame, tmp_path: Path
) -> None:
    config = ShuffleConfig(iterations_per_job=4)
    model = estimator(config, o.SGD(0.1), callbacks=[Watching(tmp_path, stop_at=0)]).fit(table)
    assert lines(tmp_path / "batches") == ["0", "1", "2", "3"]
    assert len(model.history["loss"]) == 1
    assert model.report["synchronizations"] == 4


def test_checkpoints_of_keras_are_those_of_the_epochs(table: DataFrame, tmp_path: Path) -> None:
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    model = estimator(SHUFFLE, "adam", callbacks=callbacks).fit(table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.keras", "2.keras", "log.csv"]
    saved = keras.saving.load_model(tmp_path / "2.keras").get_weights()
    for mine, other in zip(weights(model), saved, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(
    ("config", "tolerance"),
    [
        (ShuffleConfig(wire="bf16"), 2e-2),
        (ShuffleConfig(wire="bf16", error_feedback=True), 2e-2),
        (ShuffleConfig(wire="fp16"), 2e-3),
    ],
    ids=["bf16", "bf16-feedback", "fp16"],
)
def test_narrow_wires(table: DataFrame, config: ShuffleConfig, tolerance: float) -> None:
    shuffled, local = both(table, config, optimizer=o.SGD(0.1), epochs=3)
    np.testing.assert_allclose(shuffled.history["loss"], local.history["loss"], rtol=tolerance)
    assert shuffled.history["loss"] != local.history["loss"]
    assert shuffled.report["transport"] == f"spark shuffle: {config.wire}"


@pytest.fixture(scope="module")
def undisturbed(table: DataFrame) -> DLModel:
    model = network(keras.layers.BatchNormalization(), keras.layers.Dropout(0.3))
    return estimator(SHUFFLE, o.Adam(0.01, global_clipnorm=1.0), model=model, epochs=3).fit(table)


@pytest.mark.parametrize(
    "config",
    [
        ShuffleConfig(state="shuffle"),
        ShuffleConfig(state="host", iterations_per_job=1),
        ShuffleConfig(state="shuffle", iterations_per_job=4),
        ShuffleConfig(iterations_per_job=100),
    ],
    ids=["shuffle", "host-1", "shuffle-4", "host-100"],
)
def test_where_the_state_is_and_how_long_jobs_are_changes_no_bit(
    table: DataFrame, undisturbed: DLModel, config: ShuffleConfig
) -> None:
    model = network(keras.layers.BatchNormalization(), keras.layers.Dropout(0.3))
    other = estimator(config, o.Adam(0.01, global_clipnorm=1.0), model=model, epochs=3).fit(table)
    assert_same(other, undisturbed)
    assert other.report["slice_state"] == (config.state or "host")


def test_one_worker_may_synchronize_rarely(table: DataFrame) -> None:
    config = ShuffleConfig(sync_every=4)
    fits = both(table, config, optimizer=o.Adam(0.01), numTrainWorkers=1)
    assert_close(fits)
    assert fits[0].report["synchronizations"] == 2 * 2
    assert fits[0].report["cut"] == "between workers' weights"


def test_averaged_weights_learn(spark: SparkSession) -> None:
    config = ShuffleConfig(sync_every=4, iterations_per_job=1)
    model = estimator(
        config,
        o.Adam(0.1),
        model=keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]),
        epochs=8,
    ).fit(blobs(spark, rows=200))
    assert model.history["loss"][-1] < model.history["loss"][0] / 4
    assert model.history["accuracy"][-1] > 0.98


@keras.saving.register_keras_serializable("spark_shuffle")
class Centralized(keras.optimizers.SGD):  # type: ignore[misc]
    """Looks at all gradients at once."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        super().apply([g - keras.ops.mean(grads[0]) for g in grads], trainable_variables)


@pytest.mark.parametrize("name", ["SwapEMAWeights", "BackupAndRestore"])
def test_callbacks_that_need_the_optimizers_state_are_refused(
    table: DataFrame, tmp_path: Path, name: str
) -> None:
    callback = getattr(keras.callbacks, name)(*([str(tmp_path)] if name[0] == "B" else []))
    with pytest.raises(ConfigurationError, match=rf"{name} does not work with backend='shuffle'"):
        estimator(SHUFFLE, callbacks=[callback]).fit(table)


def test_an_optimizer_that_cannot_be_cut_is_refused_before_any_job(table: DataFrame) -> None:
    with pytest.raises(ConfigurationError, match=r"Centralized cannot be cut.*backend='horovod'"):
        estimator(SHUFFLE, Centralized(0.1)).fit(table)
    # with local steps nothing is cut
    config = ShuffleConfig(sync_every=2)
    assert_close(both(table, config, optimizer=Centralized(0.1), numTrainWorkers=1))


@pytest.mark.parametrize(
    ("missing", "backend", "reason"),
    [
        ("horovod", "collective", "auto: several workers, and MPI is installed"),
        ("horovod mpi4py", "shuffle", "auto: several workers, and neither Horovod nor MPI is"),
    ],
)
def test_auto_takes_what_is_installed(
    table: DataFrame, monkeypatch: pytest.MonkeyPatch, missing: str, backend: str, reason: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, package=None: None if name in missing.split() else found(name, package),
    )
    model = estimator("auto").fit(table)
    assert model.report["backend"] == backend
    assert model.report["backend_reason"].startswith(reason)
