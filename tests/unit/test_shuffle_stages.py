"""Gradient, norm and update stages, run without Spark, against the local backend."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from spark_dlobd.backends.shuffle.spark.jobs import error_of
from spark_dlobd.backends.shuffle.stages.gradient import warm_up_stage
from spark_dlobd.backends.shuffle.wire.events import GradientSent, SliceUpdated
from spark_dlobd.errors import NonFiniteLossError, WorkerError
from spark_dlobd.job.dataset import DatasetRef
from spark_dlobd.processes.events import Failed
from spark_dlobd.processes.failure import Failure
from tests.unit.shuffle_group import Fit, Group, job, local_fit, network, rows

TOLERANCE = 1e-5
ADAM = {"module": "keras.optimizers", "class_name": "Adam", "config": {"learning_rate": 0.01}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    return rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    return rows(tmp_path_factory.mktemp("rows"), (9, 5))


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory, data: DatasetRef) -> Fit:
    """What nothing disturbed; two epochs of five steps, one job each."""
    return Group(tmp_path_factory.mktemp("group"), job(network(), ADAM, 2), data).fit()


@pytest.fixture(scope="module")
def alone(data: DatasetRef) -> Fit:
    """One worker, with backend local."""
    return local_fit(job(network(), ADAM, 1), data)


def assert_same(actual: Fit, expected: Fit) -> None:
    """Bit for bit."""
    assert actual.history == expected.history
    for mine, other in zip(actual.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(mine, other)


def assert_close(actual: Fit, expected: Fit, tolerance: float = TOLERANCE) -> None:
    assert set(actual.history) == set(expected.history)
    for name, values in expected.history.items():
        np.testing.assert_allclose(actual.history[name], values, rtol=tolerance, err_msg=name)
    for mine, other in zip(actual.weights, expected.weights, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


# 43 rows in steps of 10: four workers have 2 or 3 rows a step, and none in a tail of 3 rows.
@pytest.mark.parametrize("workers", [2, 4])
def test_a_fit_is_that_of_virtual_workers(
    tmp_path: Path, validated: DatasetRef, workers: int
) -> None:
    given = job(network(), ADAM, workers)
    # of two workers each has a process, four take turns in one
    group = Group(tmp_path, given, validated, hosts=2 if workers == 2 else 1)
    assert_close(group.fit(), local_fit(given, validated))
    gradients = [event for event in group.events if isinstance(event, GradientSent)]
    assert sum(event.rows for event in gradients) == 2 * 43
    assert group.steps == (4 if workers == 4 else 5)


def test_a_worker_alone(tmp_path: Path, data: DatasetRef, alone: Fit) -> None:
    assert_close(Group(tmp_path, job(network(), ADAM, 1), data).fit(), alone)


o = keras.optimizers
OPTIMIZERS: dict[str, Any] = {
    "rmsprop averaged at times": lambda: o.RMSprop(
        0.01, momentum=0.5, centered=True, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3
    ),
    "momentum, accumulated, by schedule": lambda: o.SGD(
        o.schedules.ExponentialDecay(0.5, 2, 0.5),
        momentum=0.9,
        nesterov=True,
        gradient_accumulation_steps=2,
    ),
    "lamb": lambda: o.Lamb(0.01),
}


# test_shuffle_optimizer.py has every optimizer by itself
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(tmp_path: Path, data: DatasetRef, name: str) -> None:
    given = job(network(), OPTIMIZERS[name](), 2)
    group = Group(tmp_path, given, data, hosts=1)
    found = group.fit()
    assert_close(found, local_fit(given, data))
    assert found.history["loss"][0] != found.history["loss"][1]
    # 5 x 8 + 8 + 2 x 8 + 8 x 3 + 3 weights; Lamb looks at whole variables
    assert list(group.master.slices.lengths) == ([48, 43] if name == "lamb" else [46, 45])


def test_a_compiled_step(tmp_path: Path, data: DatasetRef) -> None:
    model = network(False, 0.0)
    model.compile(o.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=True)
    given = job(model, None, 2)
    group = Group(tmp_path, given, data, hosts=1)
    assert group.master.model.jit_compile is True
    assert_close(group.fit(), local_fit(given, data))


@keras.saving.register_keras_serializable("shuffle_stages")
class Largest(keras.metrics.Metric):  # type: ignore[misc]
    """Largest probability."""

    def __init__(self, name: str = "largest", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.largest = self.add_weight(initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.largest.assign(keras.ops.maximum(self.largest, keras.ops.max(y_pred)))

    def result(self) -> Any:
        return self.largest.value

    def merge_state(self, metrics: Any) -> None:
        self.largest.assign(max(m.largest for m in [self, *metrics]))


def test_a_metric_that_is_a_maximum_is_that_of_all_workers(
    tmp_path: Path, validated: DatasetRef
) -> None:
    given = job(network(), ADAM, 3, epochs=1, metrics=(Largest(), "accuracy"))
    expected = local_fit(given, validated)
    assert 0 < expected.history["largest"][0] < 1 and 0 < expected.history["val_largest"][0] < 1
    assert_close(Group(tmp_path, given, validated, hosts=1).fit(), expected)


def test_the_norm_of_the_whole_gradient_is_clipped(tmp_path: Path, data: DatasetRef) -> None:
    given = job(network(), keras.optimizers.SGD(0.5, global_clipnorm=0.1), 3, epochs=1)
    expected = local_fit(given, data)
    plain = Group(tmp_path / "host", given, data, hosts=1)
    before = plain.master.replica.get_vector()
    plain.run_job(0, 1)
    parts = plain.store.read_all(0, 1, "weights", 3)
    moved = np.concatenate([part.arrays["values"] for part in parts]) - before
    assert np.linalg.norm(moved) == pytest.approx(0.5 * 0.1, rel=1e-4)
    plain.rewind()
    assert_close(plain.fit(), expected)
    carried = Group(
        tmp_path / "shuffle", given, data, state="shuffle", steps_per_job=2, hosts=1, twice=True
    )
    assert_close(carried.fit(), expected)


@pytest.mark.parametrize(("state", "steps_per_job"), [("host", 1), ("shuffle", 2)])
def test_repeated_tasks_and_jobs_of_any_length_give_the_same(
    tmp_path: Path, data: DatasetRef, two_workers: Fit, state: str, steps_per_job: int
) -> None:
    given = job(network(), ADAM, 2)
    group = Group(tmp_path, given, data, state=state, steps_per_job=steps_per_job, twice=True)
    assert_same(group.fit(), two_workers)


def test_whoever_updates_first_wins_but_only_once(tmp_path: Path, data: DatasetRef) -> None:
    given = job(network(False, 0.0), keras.optimizers.SGD(1.0), 1, epochs=1, batch_size=43)
    group = Group(tmp_path, given, data, twice=True)
    before = group.master.replica.get_vector()
    gradient = group.master.replica.step(0, 0, 0)[1]
    group.fit()
    np.testing.assert_allclose(
        group.master.replica.get_vector(), before - gradient, rtol=1e-5, atol=1e-6
    )


@keras.saving.register_keras_serializable("shuffle_stages")
def leaning(labels: Any, outputs: Any) -> Any:
    """Its gradient is the same whatever the weights are."""
    return -keras.ops.sum(keras.ops.one_hot(keras.ops.cast(labels, "int32"), 3) * outputs, -1)


def test_rounding_that_is_fed_back_does_not_add_up(tmp_path: Path, data: DatasetRef) -> None:
    steps = 8
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    given = job(model, keras.optimizers.SGD(1.0), 2, epochs=steps, batch_size=43, loss=leaning)

    def weights(**options: Any) -> Any:
        name = "-".join(map(str, options.values()))
        group = Group(tmp_path / name, given, data, hosts=1, **options)
        group.fit()
        return group.master.replica.get_vector()

    exact = weights(wire="fp32")
    plain, fed_back, half = (
        float(np.abs(weights(**options) - exact).max())
        for options in (
            {"wire": "bf16"},
            {"wire": "bf16", "error_feedback": True},
            {"wire": "fp16"},
        )
    )
    # the same error in every step, against what the last rounding left
    assert 0 < fed_back < plain / 3
    assert 0 < half < plain < steps * 2**-8


@pytest.mark.parametrize(("wire", "tolerance"), [("bf16", 2e-2), ("fp16", 2e-3)])
def test_narrow_wires(
    tmp_path: Path, data: DatasetRef, two_workers: Fit, wire: str, tolerance: float
) -> None:
    found = Group(tmp_path, job(network(), ADAM, 2), data, hosts=1, wire=wire).fit()
    np.testing.assert_allclose(found.history["loss"], two_workers.history["loss"], rtol=tolerance)
    assert found.history["loss"] != two_workers.history["loss"]


# test_shuffle_recovery.py has the same with the state on hosts
def test_what_rounding_took_survives_repeats_and_jobs(tmp_path: Path, data: DatasetRef) -> None:
    given = job(network(), keras.optimizers.SGD(0.05, global_clipnorm=1.0), 2)
    options: dict[str, Any] = {"wire": "bf16", "error_feedback": True}
    whole = Group(tmp_path / "whole", given, data, **options).fit()
    options |= {"steps_per_job": 1, "twice": True, "state": "shuffle"}
    assert_same(Group(tmp_path / "parts", given, data, hosts=1, **options).fit(), whole)


@pytest.mark.parametrize("every", [2, 5])
def test_one_worker_that_averages_with_itself_is_plain_training(
    tmp_path: Path, data: DatasetRef, alone: Fit, every: int
) -> None:
    group = Group(tmp_path, job(network(), ADAM, 1), data, sync_every=every, twice=True)
    assert_close(group.fit(), alone)


def test_averaged_weights_are_the_mean_of_what_workers_reach(
    tmp_path: Path, data: DatasetRef
) -> None:
    given = job(network(False, 0.0), keras.optimizers.SGD(0.1), 2, epochs=1)
    group = Group(tmp_path, given, data, sync_every=9, hosts=1)
    reached = []
    for rank in range(2):
        group.master.replica.set_vector(group.master._vector)
        for step in range(group.steps):
            group.master.replica.step(rank, 0, step)
        reached.append(group.master.replica.get_vector())
    group.fit()
    np.testing.assert_allclose(
        group.master.replica.get_vector(), np.mean(reached, axis=0), rtol=1e-6, atol=1e-7
    )


@keras.saving.register_keras_serializable("shuffle_stages")
class Picky(keras.Sequential):  # type: ignore[misc]
    """Dislikes one worker's rows."""

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        logs = super().train_step(data)

        def dislike(loss: Any) -> Any:
            raise ValueError("not these rows")

        tf.py_function(dislike, [logs["loss"]], [])
        return logs


@keras.saving.register_keras_serializable("shuffle_stages")
class Grumpy(keras.optimizers.SGD):  # type: ignore[misc]
    """Fails when it updates."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        import tensorflow as tf

        tf.debugging.assert_less(tf.cast(self.iterations, "int32"), 1, "no second update")
        super().update_step(gradient, variable, learning_rate)


def failures(group: Group) -> list[Failure]:
    return [event.failure for event in group.events if isinstance(event, Failed)]


def failed_with(header: dict[str, Any]) -> Exception:
    return error_of(Failure.from_json(header["failure"]))


def test_an_error_of_the_user_passes_through_all_later_stages(
    tmp_path: Path, data: DatasetRef
) -> None:
    model = Picky(network(False, 0.0).layers)
    model.build((None, 5))
    group = Group(tmp_path, job(model, keras.optimizers.SGD(0.1), 2, epochs=1), data)
    done = group.run_job(0, 4)
    assert [message.header["kind"] for message in done] == ["failed"] * 2
    # once each, in the first stage: later ones only pass it on
    assert [failure.rank for failure in failures(group)] == [0, 1]
    assert not any(isinstance(event, SliceUpdated) for event in group.events)
    error = failed_with(done[0].header)
    assert isinstance(error, WorkerError)
    assert (error.rank, error.phase) == (0, "train epoch 0 step 0")
    assert "not these rows" in str(error) and "dislike" in str(error)


def test_an_optimizer_that_fails_is_no_reason_to_run_again(
    tmp_path: Path, data: DatasetRef
) -> None:
    given = job(network(False, 0.0), Grumpy(0.1), 2, epochs=1)
    group = Group(tmp_path, given, data)
    done = group.run_job(0, 4)
    error = failed_with(done[0].header)
    assert isinstance(error, WorkerError)
    assert error.phase == "update epoch 0 step 1"
    assert "no second update" in str(error)


@keras.saving.register_keras_serializable("shuffle_stages")
class DriverOnly(keras.layers.Layer):  # type: ignore[misc]
    """A layer that executors cannot build, as if they lacked a file."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if "SHUFFLE_STAGES_EXECUTOR" in os.environ:
            raise FileNotFoundError("/opt/vocabulary.txt is not on this host")

    def call(self, x: Any) -> Any:
        return x


def test_a_model_that_only_the_driver_can_build(
    tmp_path: Path, data: DatasetRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = keras.Sequential([keras.Input((5,)), DriverOnly(), keras.layers.Dense(3, "softmax")])
    group = Group(tmp_path, job(model, "sgd", 2, epochs=1), data)
    monkeypatch.setenv("SHUFFLE_STAGES_EXECUTOR", "1")
    assert group.run_task(functools.partial(warm_up_stage, group.task(0, 0)), 1, []) == []
    (failure,) = failures(group)
    error = error_of(failure)
    assert isinstance(error, WorkerError)
    assert (error.rank, error.phase) == (1, "build model")
    assert error.host
    assert "/opt/vocabulary.txt is not on this host" in error.message


def test_a_loss_that_is_not_finite(tmp_path: Path, data: DatasetRef) -> None:
    given = job(network(False, 0.0), keras.optimizers.SGD(1e30), 2, epochs=1)
    error = failed_with(Group(tmp_path, given, data).run_job(0, 4)[0].header)
    assert isinstance(error, NonFiniteLossError)
    assert error.rank in (0, 1)
    assert "the loss became nan in epoch 0, step 1" in str(error)


def test_a_gradient_too_large_for_fp16_is_said_and_not_tried_again(
    tmp_path: Path, data: DatasetRef
) -> None:
    model = network(False, 0.0)
    model.set_weights([weight * 1e6 for weight in model.get_weights()])
    group = Group(tmp_path, job(model, "sgd", 2, epochs=1), data, wire="fp16")
    error = failed_with(group.run_job(0, 4)[0].header)
    assert isinstance(error, WorkerError)
    assert "epoch 0 step 0" in error.phase
    assert "does not fit into fp16" in error.message


@keras.saving.register_keras_serializable("shuffle_stages")
class Centralized(keras.optimizers.SGD):  # type: ignore[misc]
    """Looks at all gradients at once."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        super().apply([g - keras.ops.mean(grads[0]) for g in grads], trainable_variables)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Centralized(0.05, momentum=0.9),
        lambda: scaled(o.SGD(0.05, momentum=0.9)),
        lambda: scaled(o.SGD(o.schedules.ExponentialDecay(0.05, 3, 0.5), momentum=0.9)),
    ],
    ids=["centralized", "scaled", "scaled by schedule"],
)
def test_local_steps_take_an_optimizer_that_cannot_be_cut(
    tmp_path: Path, data: DatasetRef, make: Any
) -> None:
    given = job(network(), make(), 1, epochs=1)
    group = Group(tmp_path, given, data, sync_every=2, twice=True)
    assert_close(group.fit(), local_fit(given, data))


def scaled(inner: Any) -> Any:
    return o.LossScaleOptimizer(inner, initial_scale=8.0, dynamic_growth_steps=3)
