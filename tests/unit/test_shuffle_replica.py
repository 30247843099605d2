"""The model inside a worker: what travels, what is carried, and what a step leaves behind."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from spark_dlobd.backends.shuffle.stages.replica import Replica, _recorded_assignments
from spark_dlobd.errors import ModelError
from spark_dlobd.job.dataset import DatasetRef
from tests.unit.shuffle_group import job, network, rows

ADAM = keras.optimizers.Adam(0.01)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    return rows(tmp_path_factory.mktemp("rows"), (9, 5))


@pytest.fixture(scope="module")
def replica(data: DatasetRef) -> Replica:
    return Replica(job(network(), ADAM, 2), data)


@pytest.fixture(scope="module")
def averaging(data: DatasetRef) -> Replica:
    return Replica(job(network(), ADAM, 2), data, updates_locally=True)


def names(variables: Any) -> list[str]:
    return [variable.path.split("/")[-1] for variable in variables]


def everything(replica: Replica) -> list[Any]:
    model = replica.model
    held = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    return [np.array(variable) for variable in held]


def test_trainable_variables_travel(replica: Replica) -> None:
    assert names(replica.vector) == ["kernel", "bias", "gamma", "beta", "kernel", "bias"]
    assert replica.layout.untrained == ()
    assert replica.layout.averaged == ()


def test_statistics_seeds_and_metrics_are_carried(replica: Replica) -> None:
    assert names(replica.carried) == [
        "moving_mean",
        "moving_variance",
        "seed_generator_state",
        *["total", "count"] * 2,
    ]


def test_workers_that_average_also_carry_their_optimizers_count(averaging: Replica) -> None:
    moments = names(averaging.vector)[6:]
    assert len(moments) == 2 * 6
    assert all("momentum" in name or "velocity" in name for name in moments)
    assert names(averaging.carried)[-1] == "iteration"
    assert "learning_rate" not in names(averaging.carried) + moments


def test_what_is_frozen_neither_travels_nor_is_carried(data: DatasetRef) -> None:
    base = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4), keras.layers.BatchNormalization()]
    )
    base.trainable = False
    model = keras.Sequential([keras.Input((5,)), base, keras.layers.Dense(3, "softmax")])
    frozen = Replica(job(model, ADAM, 2), data)
    assert names(frozen.vector) == ["kernel", "bias"]
    assert names(frozen.carried) == ["total", "count"] * 2


@keras.saving.register_keras_serializable("shuffle_replica")
class Half(keras.layers.Layer):  # type: ignore[misc]
    """Uses one of its two weights."""

    def build(self, shape: Any) -> None:
        self.used = self.add_weight(shape=(5,), name="used", initializer="ones")
        self.idle = self.add_weight(shape=(2,), name="idle", initializer="ones")

    def call(self, x: Any) -> Any:
        return x * self.used


def test_a_variable_that_the_loss_does_not_need_is_named(data: DatasetRef) -> None:
    model = keras.Sequential([keras.Input((5,)), Half(), keras.layers.Dense(3, "softmax")])
    half = Replica(job(model, ADAM, 1), data)
    assert [path.split("/")[-1] for path in half.layout.untrained] == ["idle"]
    gradient = half.step(0, 0, 0)[1]
    assert gradient.shape == (5 + 2 + 15 + 3,)
    assert (gradient[5:7] == 0).all() and (gradient[:5] != 0).any()


def test_a_worker_takes_the_drivers_layout(replica: Replica, data: DatasetRef) -> None:
    worker = Replica(replica.job, data, layout=replica.layout)
    assert names(worker.carried) == names(replica.carried)
    assert worker.layout is replica.layout


def test_the_flat_vector_is_read_as_it_was_set(replica: Replica) -> None:
    before = replica.get_vector()
    assert before.dtype == np.float32
    flat = np.arange(before.size, dtype=np.float32)
    replica.set_vector(flat)
    np.testing.assert_array_equal(replica.get_vector(), flat)
    np.testing.assert_array_equal(
        np.asarray(replica.model.layers[0].kernel), flat[:40].reshape(5, 8)
    )
    replica.set_vector(before)


@pytest.mark.parametrize("kind", ["replica", "averaging"])
def test_warming_up_changes_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    warmed: Replica = request.getfixturevalue(kind)
    warmed.step(0, 0, 0)
    before = everything(warmed)
    warmed.warm_up()
    for value, expected in zip(everything(warmed), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_any_step_of_any_epoch_finds_its_rows(data: DatasetRef) -> None:
    plain = Replica(job(network(False, 0.0), ADAM, 2), data)
    steps = plain.plan.steps_per_epoch
    every = [(rank, epoch, step) for rank in (0, 1) for epoch in (0, 1) for step in range(steps)]
    in_order = {where: plain.step(*where)[1] for where in every}
    assert len({gradient.tobytes() for gradient in in_order.values()}) == len(every)
    np.random.default_rng(0).shuffle(every)
    for where in every:
        np.testing.assert_array_equal(plain.step(*where)[1], in_order[tuple(where)])
    plain.close()
    np.testing.assert_array_equal(plain.step(1, 0, 3)[1], in_order[1, 0, 3])


def test_shares_of_rows_weigh_a_gradient(data: DatasetRef) -> None:
    """Of 5 rows a worker has 2 and the other 3; their mean is the gradient of all 5."""
    import tensorflow as tf

    parted = Replica(job(network(False, 0.0), ADAM, 2, batch_size=5), data)
    assert [parted.plan.local_batch_sizes(rank)[0] for rank in (0, 1)] == [2, 3]
    batches = [next(iter(parted._open(rank).dataset(None))) for rank in (0, 1)]
    x, y, weight = (tf.concat(parts, 0) for parts in zip(*batches, strict=True))
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(y, parted.model(x))
        loss = tf.reduce_mean(losses * weight)
    gradients = tape.gradient(loss, [v.value for v in parted.vector])
    expected = np.concatenate([np.ravel(gradient) for gradient in gradients])
    mean = np.mean([parted.step(rank, 0, 0)[1] for rank in (0, 1)], axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-7)


def test_what_a_worker_carried_comes_back_elsewhere(replica: Replica, data: DatasetRef) -> None:
    replica.restore(("start",), [np.zeros(v.shape, v.dtype) for v in replica.carried])
    replica.step(0, 0, 0)
    carried = [np.array(value) for value in replica.carry((0, 0, 1))]
    other = Replica(replica.job, data, layout=replica.layout)
    other.set_vector(replica.get_vector())
    other.restore((0, 0, 1), carried)
    here, there = replica.step(0, 0, 1), other.step(0, 0, 1)
    assert here[0] == there[0]
    np.testing.assert_array_equal(here[1], there[1])
    for mine, theirs in zip(replica.carry(()), other.carry(()), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_validation_leaves_the_state_of_every_metric(replica: Replica) -> None:
    counts = [float(replica.evaluate(rank)[1]) for rank in (0, 1)]
    assert sum(counts) == 9 + 5


@keras.saving.register_keras_serializable("shuffle_replica")
class Twice(keras.Sequential):  # type: ignore[misc]
    """Updates twice."""

    def train_step(self, data: Any) -> Any:
        super().train_step(data)
        return super().train_step(data)


def test_a_step_with_two_updates_is_refused(data: DatasetRef) -> None:
    model = Twice(network(False, 0.0).layers)
    model.build((None, 5))
    with pytest.raises(ModelError, match=r"Twice called optimizer.apply 2 times"):
        Replica(job(model, ADAM, 2), data)


def test_watching_assignments_ends_with_its_block() -> None:
    original = keras.Variable._direct_assign
    variable = keras.Variable(1.0)
    with pytest.raises(KeyError), _recorded_assignments() as written:
        variable.assign(2.0)
        assert written == {id(variable)}
        raise KeyError
    assert keras.Variable._direct_assign is original
