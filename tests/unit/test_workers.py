"""How many workers a training pays for, by the rule of numTrainWorkers=0."""

from __future__ import annotations

from dataclasses import replace

import keras
import pytest

from spark_dlobd.backends.workers import Room, Work, choose_workers
from spark_dlobd.training.work import multiply_adds

WORK = Work(rows=1_000_000, epochs=10, batch_size=1024, multiply_adds=2_293_000, weights=431_080)
CLUSTER = Room(slots=8, cores_per_slot=4, driver_cores=4, one_machine=False)


def test_a_large_training_takes_the_cluster() -> None:
    count, why = choose_workers(WORK, CLUSTER, "horovod")
    assert count == 8
    assert (
        why
        == "8 of 8 slots, as they make about 4.6 min of about 29 min of computing for one worker"
    )


@pytest.mark.parametrize(
    ("work", "room", "why"),
    [
        (replace(WORK, rows=2_000), CLUSTER, "about 3 s of computing for one worker does not pay"),
        (WORK, replace(CLUSTER, one_machine=True), "all slots share the cores"),
        (WORK, replace(CLUSTER, slots=1), "the session has one slot"),
        (replace(WORK, batch_size=16), CLUSTER, "does not pay"),
        # a gigabyte a step, for a computation of a millisecond
        (replace(WORK, multiply_adds=100, weights=250_000_000), CLUSTER, "does not pay"),
    ],
)
def test_one_worker_where_several_do_not_pay(work: Work, room: Room, why: str) -> None:
    count, found = choose_workers(work, room, "horovod")
    assert count == 1 and why in found


def test_what_a_step_waits_for_counts() -> None:
    fine = replace(WORK, multiply_adds=1_000_000, batch_size=256)
    over_shuffle, over_mpi = (choose_workers(fine, CLUSTER, name)[0] for name in ("shuffle", "mpi"))
    assert over_shuffle < over_mpi


def test_no_worker_gets_a_slice_that_leaves_it_idle() -> None:
    assert choose_workers(replace(WORK, batch_size=64), CLUSTER, "horovod")[0] <= 4


def test_multiply_adds_are_those_of_the_layers() -> None:
    layers = keras.layers
    image = [keras.Input((28, 28, 1)), layers.Conv2D(20, 5), layers.MaxPooling2D()]
    image += [layers.Conv2D(50, 5), layers.MaxPooling2D(), layers.Flatten()]
    lenet = keras.Sequential([*image, layers.Dense(500), layers.Dense(10)])
    assert multiply_adds(lenet) == 2_293_000
    text = [keras.Input((10,)), layers.Embedding(100, 8)]
    recurrent = keras.Sequential([*text, layers.LSTM(16), layers.Dense(2)])
    assert multiply_adds(recurrent) == 10 * (8 * 64 + 16 * 64) + 16 * 2
    both = keras.Sequential([*text, layers.Bidirectional(layers.LSTM(16)), layers.Dense(2)])
    assert multiply_adds(both) == 2 * 10 * (8 * 64 + 16 * 64) + 32 * 2
    assert multiply_adds(keras.Sequential([lenet, layers.Dense(3)])) == 2_293_000 + 30
