"""Every loss of a worker, a host, shuffle files or state, played without Spark: exact recovery.

tests/cluster/test_shuffle_faults.py has some of them with real executors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

from spark_dlobd.backends.shuffle.slices.store import SliceStore
from spark_dlobd.job.dataset import DatasetRef
from tests.unit.shuffle_group import Group, job, network, rows

Loss = Callable[[Group], None]


def kill_worker(group: Group) -> None:
    """Another process of the same host goes on."""
    group.hosts[1].tools = type(group.hosts[1].tools)()


def move_task(group: Group) -> None:
    """Another host goes on; what the first one has sent is still there."""
    group.hosts[1] = group.new_host()


def kill_executor(group: Group) -> None:
    """Another host does all of the job again."""
    move_task(group)
    group.do_again(1)


def lose_shuffle_files(group: Group) -> None:
    """Another process of the same host does all of the job again."""
    kill_worker(group)
    group.do_again(1)


def lose_slices(group: Group) -> None:
    """The state is gone from file and memory."""
    with group.on(group.hosts[1]):
        SliceStore(group.job.run_id).remove()
    kill_worker(group)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "global clipnorm": {"clipnorm": 0.1},
    "error feedback": {"wire": "bf16", "error_feedback": True},
    "local steps": {"sync_every": 2},
}
LOSSES = [kill_worker, move_task, kill_executor, lose_shuffle_files, lose_slices]
CASES = [
    *[("plain", lose) for lose in LOSSES],
    *[(name, lose_shuffle_files) for name in SETTINGS if name != "plain"],
]
# in the second and the third of three jobs; with two local steps, stages begin at even ones
STRIKES = [("update", 6), ("gradient", 10)]


class Undisturbed:
    """A group and what its epoch comes to."""

    def __init__(self, folder: Path, data: DatasetRef, clipnorm: Any = None, **options: Any):
        optimizer = keras.optimizers.Adam(0.01, global_clipnorm=clipnorm)
        given = job(network(), optimizer, 2, epochs=1, batch_size=4)
        self.group = Group(folder, given, data, steps_per_job=4, **options)
        assert self.group.steps == 11
        self.checkpoint = self.fit("host", lambda name, step: None)

    def fit(self, state: str, before_stage: Callable[[str, int], None]) -> list[Any]:
        """Everything that the last job leaves: weights, optimizers, statistics and metrics."""
        group = self.group
        group.rewind()
        group.options["state"] = state
        group.before_stage = before_stage
        group.run_jobs(0)
        found = []
        for part in ("weights", "optimizer", "worker"):
            for message in group.store.read_all(0, group.steps, part, group.size):
                found += [(part, name, a.tobytes()) for name, a in sorted(message.arrays.items())]
        return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Undisturbed]:
    data = rows(tmp_path_factory.mktemp("rows"))

    @functools.cache
    def by_name(name: str) -> Undisturbed:
        return Undisturbed(tmp_path_factory.mktemp("group"), data, **SETTINGS[name])

    return by_name


@pytest.mark.parametrize("state", ["host", "shuffle"])
@pytest.mark.parametrize(("name", "lose"), CASES)
def test_recovers_exactly(
    undisturbed: Callable[[str], Undisturbed], name: str, lose: Loss, state: str
) -> None:
    expected = undisturbed(name)
    group = expected.group
    due = list(STRIKES)

    def before_stage(stage: str, step: int) -> None:
        if due and due[0] == (stage, step):
            del due[0]
            lose(group)

    assert expected.fit(state, before_stage) == expected.checkpoint
    assert not due
    gone = lose in (move_task, lose_slices) and state == "host"
    assert [failure.message.partition(":")[0] for failure in group.repeats] == [
        f"Slice 1 as it was before step {step} of epoch 0 is not on this host"
        for _, step in STRIKES * gone
    ]
    assert {failure.rank for failure in group.repeats} <= {1}
