"""Gradient, norm and update stages, run without Spark, against the local backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from spark_dlobd.backends.shuffle.spark.jobs import error_of
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
    return rows(tmp_path_factory.mktemp("rows"), (9, 5))


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory, data: DatasetRef) -> Fit:
    """What nothing disturbed; two epochs of five steps, one job each."""
    return Group(tmp_path_factory.mktemp("group"), job(network(), ADAM, 2), data).fit()


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
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_a_fit_is_that_of_virtual_workers(tmp_path: Path, data: DatasetRef, workers: int) -> None:
    given = job(network(), ADAM, workers)
    group = Group(tmp_path, given, data)
    assert_close(group.fit(), local_fit(given, data))
    gradients = [event for event in group.events if isinstance(event, GradientSent)]
    assert sum(event.rows for event in gradients) == 2 * 43
    assert group.steps == (4 if workers == 4 else 5)


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
    tmp_path: Path, data: DatasetRef
) -> None:
    given = job(network(), ADAM, 3, metrics=(Largest(), "accuracy"))
    expected = local_fit(given, data)
    assert 0 < expected.history["largest"][0] < 1 and 0 < expected.history["val_largest"][0] < 1
    assert_close(Group(tmp_path, given, data).fit(), expected)


def test_the_norm_of_the_whole_gradient_is_clipped(tmp_path: Path, data: DatasetRef) -> None:
    given = job(network(), keras.optimizers.SGD(0.5, global_clipnorm=0.1), 3, epochs=1)
    expected = local_fit(given, data)
    assert_close(Group(tmp_path / "host", given, data).fit(), expected)
    carried = Group(tmp_path / "shuffle", given, data, state="shuffle", steps_per_job=2, twice=True)
    assert_close(carried.fit(), expected)
    unclipped = job(network(), keras.optimizers.SGD(0.5), 3, epochs=1)
    assert local_fit(unclipped, data).history["loss"] != expected.history["loss"]


@pytest.mark.parametrize("steps_per_job", [1, 2])
def test_jobs_of_any_length_give_the_same(
    tmp_path: Path, data: DatasetRef, two_workers: Fit, steps_per_job: int
) -> None:
    group = Group(tmp_path, job(network(), ADAM, 2), data, steps_per_job=steps_per_job)
    assert_same(group.fit(), two_workers)


@pytest.mark.parametrize("state", ["host", "shuffle"])
def test_repeated_tasks_change_nothing(
    tmp_path: Path, data: DatasetRef, two_workers: Fit, state: str
) -> None:
    group = Group(tmp_path, job(network(), ADAM, 2), data, state=state, twice=True)
    assert_same(group.fit(), two_workers)


def test_a_task_may_move_when_its_state_travels(
    tmp_path: Path, data: DatasetRef, two_workers: Fit
) -> None:
    group = Group(tmp_path, job(network(), ADAM, 2), data, state="shuffle")

    def move(name: str, step: int) -> None:
        if step == 2:
            group.hosts[0 if name == "gradient" else 1] = group.new_host()

    group.before_stage = move
    assert_same(group.fit(), two_workers)


def test_processes_of_one_host_share_the_state(
    tmp_path: Path, data: DatasetRef, two_workers: Fit
) -> None:
    group = Group(tmp_path, job(network(), ADAM, 2), data, state="host")

    def another_process(name: str, step: int) -> None:
        if step == 2:
            for host in group.hosts:
                host.tools = type(host.tools)()

    group.before_stage = another_process
    assert_same(group.fit(), two_workers)


def test_a_host_lost_with_its_state_is_told_and_the_job_starts_again(
    tmp_path: Path, data: DatasetRef, two_workers: Fit
) -> None:
    given = job(network(), ADAM, 2)
    group = Group(tmp_path, given, data, state="host", steps_per_job=3)
    lost: list[Any] = []

    def lose(name: str, step: int) -> None:
        if (name, step, len(lost)) == ("update", 1, 0):
            lost.append(group.hosts[1])
            group.hosts[1] = group.new_host()

    group.before_stage = lose
    done = group.run_job(0, 3)
    assert {message.header["kind"] for message in done} == {"failed"}
    failure = Failure.from_json(done[0].header["failure"])
    assert failure.cause == "lost"
    assert "Slice 1 as it was before step 1 of epoch 0 is not on this host" in failure.message
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
        group = Group(tmp_path / name, given, data, **options)
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


@pytest.mark.parametrize("state", ["host", "shuffle"])
def test_what_rounding_took_survives_repeats_and_jobs(
    tmp_path: Path, data: DatasetRef, state: str
) -> None:
    given = job(network(), keras.optimizers.SGD(0.05, global_clipnorm=1.0), 2)
    options: dict[str, Any] = {"wire": "bf16", "error_feedback": True, "state": state}
    whole = Group(tmp_path / "whole", given, data, **options).fit()
    parts = Group(tmp_path / "parts", given, data, steps_per_job=1, twice=True, **options)
    assert_same(parts.fit(), whole)


@pytest.mark.parametrize("every", [2, 5])
def test_one_worker_that_averages_with_itself_is_plain_training(
    tmp_path: Path, data: DatasetRef, every: int
) -> None:
    given = job(network(), ADAM, 1)
    group = Group(tmp_path, given, data, sync_every=every, twice=True)
    assert_close(group.fit(), local_fit(given, data))


def test_averaged_weights_are_the_mean_of_what_workers_reach(
    tmp_path: Path, data: DatasetRef
) -> None:
    given = job(network(False, 0.0), keras.optimizers.SGD(0.1), 2, epochs=1)
    group = Group(tmp_path, given, data, sync_every=9)
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


def test_a_loss_that_is_not_finite(tmp_path: Path, data: DatasetRef) -> None:
    given = job(network(False, 0.0), keras.optimizers.SGD(1e30), 2, epochs=1)
    error = failed_with(Group(tmp_path, given, data).run_job(0, 4)[0].header)
    assert isinstance(error, NonFiniteLossError)
    assert "the loss became nan in epoch 0, step 1" in str(error)


def test_a_gradient_too_large_for_fp16_is_said_and_not_tried_again(
    tmp_path: Path, data: DatasetRef
) -> None:
    model = network(False, 0.0)
    model.set_weights([weight * 1e6 for weight in model.get_weights()])
    group = Group(tmp_path, job(model, "sgd", 2, epochs=1), data, wire="fp16")
    error = failed_with(group.run_job(0, 4)[0].header)
    assert isinstance(error, WorkerError)
    assert "does not fit into fp16" in str(error)


@pytest.mark.parametrize("schedule", [False, True])
def test_local_steps_take_an_optimizer_that_cannot_be_cut(
    tmp_path: Path, data: DatasetRef, schedule: bool
) -> None:
    rate: Any = keras.optimizers.schedules.ExponentialDecay(0.05, 3, 0.5) if schedule else 0.05
    inner = keras.optimizers.SGD(rate, momentum=0.9)
    scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0, dynamic_growth_steps=3)
    given = job(network(), scaled, 1)
    group = Group(tmp_path, given, data, sync_every=2, twice=True)
    assert_close(group.fit(), local_fit(given, data))
