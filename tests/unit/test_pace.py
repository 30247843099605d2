"""A rank that is slower than the others, from the seconds that ranks tell."""

from __future__ import annotations

from typing import Any

import pytest

from spark_dlobd.backends.gang import GangState
from spark_dlobd.backends.pace import PaceWatch, SlowRank
from spark_dlobd.processes.events import Measured, Placed
from spark_dlobd.tracking.progress import Activity
from spark_dlobd.tracking.reporter import Reporter


def times(epoch: int, own: float, read: float = 0.5, **others: Any) -> dict[str, Any]:
    """Of an epoch of 20 s in which a rank itself was at work for `own`."""
    parts = {"communication": 1.0, "waiting": 19.0 - own, "tracing": 0.0, **others}
    return {"epoch": epoch, "seconds": 20.0, "input": read, **parts}


def slow_ranks(watch: PaceWatch, epoch: int, *own: float, **read: float) -> list[SlowRank]:
    found = [
        watch.take(rank, f"host {rank}", times(epoch, seconds, read.get(f"r{rank}", 0.5)))
        for rank, seconds in enumerate(own)
    ]
    return [slow for slow in found if slow is not None]


def test_a_rank_that_is_slow_twice_is_named_once() -> None:
    watch = PaceWatch(3)
    assert slow_ranks(watch, 0, 10, 9, 18) == []
    assert slow_ranks(watch, 1, 10, 10, 19) == [SlowRank(2, "host 2", 1, 19.0, 10.0, "compute")]
    assert slow_ranks(watch, 2, 10, 10, 19) == []


def test_what_it_loses_in_reading_is_told_apart() -> None:
    watch = PaceWatch(2)
    slow_ranks(watch, 0, 18, 8, r0=9.0)
    (slow,) = slow_ranks(watch, 1, 18, 8, r0=9.0)
    assert (slow.rank, slow.part) == (0, "input")
    assert str(slow).startswith("Rank 0 on host 0 keeps the others waiting: in epoch 1 it needed")
    assert "loses most in reading rows. Look for slow storage there" in str(slow)


@pytest.mark.parametrize(
    "epochs",
    [
        [(10, 14), (10, 14)],  # less than half as much again
        [(0.5, 2.0), (0.5, 2.0)],  # less than two seconds
        [(10, 18), (10, 10), (10, 18)],  # not in a row
        [(10, 18), (18, 10), (10, 18), (18, 10)],  # now one, now the other
    ],
)
def test_who_is_not_slow(epochs: list[tuple[float, float]]) -> None:
    watch = PaceWatch(2)
    assert [slow_ranks(watch, epoch, *own) for epoch, own in enumerate(epochs)] == [[]] * len(
        epochs
    )


def test_nothing_is_known_without_communication() -> None:
    watch = PaceWatch(2)
    for epoch in (0, 1):
        for rank in (0, 1):
            measured = times(epoch, 9.0 + 9 * rank, communication=None, waiting=None)
            assert watch.take(rank, "h", measured) is None


def test_an_epoch_trained_again_counts_once() -> None:
    watch = PaceWatch(2)
    assert slow_ranks(watch, 0, 10, 18) == []
    assert slow_ranks(watch, 0, 10, 18) == []
    assert len(slow_ranks(watch, 1, 10, 18)) == 1


def test_the_driver_warns_and_the_line_names_the_rank() -> None:
    reporter = Reporter(epochs=4, batch_size=8, verbose=0)
    state = GangState(reporter, 2)
    state.take(0, Placed(1, "b (10.0.0.2)"))  # tasks are not ranks
    state.take(1, Placed(0, "a (10.0.0.1)"))
    for epoch in range(3):
        state.take(0, Measured({"times": times(epoch, 18)}))
        state.take(1, Measured({"times": times(epoch, 8)}))
        state.take(1, Measured({"problem": "no clock"}))
    (warning,) = reporter.warnings
    assert warning.startswith("Rank 1 on b (10.0.0.2) keeps the others waiting: in epoch 1")


def test_the_line_names_the_rank() -> None:
    activity = Activity(epochs=2, steps_per_epoch=4, batch_size=8, clock=lambda: 0.0)
    activity.phase("train")
    activity.step(0, 1, {"loss": 0.5})
    activity.slow("rank 1 slow (compute)")
    assert activity.words() == "epoch 1/2  step 2/4  loss 0.5  rank 1 slow (compute)"
