from __future__ import annotations

from typing import Any

import pytest

from spark_dlobd.backends.gang import GangState
from spark_dlobd.backends.stall import StallWatch, heartbeat_s
from spark_dlobd.errors import (
    TrainingTimeoutError,
    WorkerError,
    WorkerLostError,
    WorkerStalledError,
)
from spark_dlobd.processes.events import Attended, Disconnected, Failed, Placed, Result
from spark_dlobd.processes.failure import Failure
from spark_dlobd.tracking.reporter import Reporter


def at(joined: int, marks: int = 0, phase: str = "train epoch 1 step 4", **more: Any) -> Any:
    """State of a rank that is in no collective operation."""
    state = {"waiting": False, "marks": marks, "phase": phase, "may_compile": False}
    return Attended(joined, **{**state, **more})


def waits(joined: int) -> Any:
    return at(joined, waiting=True)


class Ranks:
    """A watch with a limit of 10 s that hears of each rank every second."""

    def __init__(self, **states: Any) -> None:
        self.watch = StallWatch(10.0)
        self.now = 0.0
        self.states = {int(name[1:]): state for name, state in states.items()}

    def pass_seconds(self, seconds: int, silent: tuple[int, ...] = ()) -> Any:
        """What the watch finds, at the latest after `seconds`."""
        for _ in range(seconds):
            self.now += 1.0
            for rank, state in self.states.items():
                if rank not in silent:
                    self.watch.take(rank, state, self.now)
            if found := self.watch.stalled(self.now):
                return found
        return None


def test_a_rank_that_does_not_come_while_another_waits() -> None:
    ranks = Ranks(r0=waits(14), r1=at(13, phase="train epoch 1, after step 3"))
    assert ranks.pass_seconds(10) is None  # 9 s since both were first heard of
    found = ranks.pass_seconds(1)
    assert (found.task, found.seconds, found.silent, found.waiting) == (1, 10.0, False, (0,))
    assert found.phase == "train epoch 1, after step 3"


def test_the_time_begins_when_the_first_one_waits() -> None:
    ranks = Ranks(r0=at(13), r1=at(13), r2=at(13))
    assert ranks.pass_seconds(100) is None  # all of them in a callback that takes long
    ranks.states[0] = waits(14)
    assert ranks.pass_seconds(5) is None
    ranks.states[2] = waits(14)
    assert ranks.pass_seconds(5) is None
    found = ranks.pass_seconds(1)
    assert (found.task, found.seconds, found.waiting) == (1, 10.0, (0, 2))


def test_steps_of_a_slow_validation_are_progress() -> None:
    ranks = Ranks(r0=waits(14), r1=at(13))
    for step in range(20):
        ranks.states[1] = at(13, marks=step, phase=f"validate epoch 0 step {step}")
        assert ranks.pass_seconds(8) is None


def test_ranks_that_are_slow_together_do_not_stall() -> None:
    ranks = Ranks(r0=at(0), r1=at(0))
    for step in range(1, 5):
        assert ranks.pass_seconds(60) is None  # computing
        ranks.states[0] = waits(step)
        assert ranks.pass_seconds(9) is None
        ranks.states = {rank: at(step, marks=step) for rank in (0, 1)}


def test_a_step_that_may_compile_is_no_stall() -> None:
    ranks = Ranks(r0=waits(1), r1=at(0, may_compile=True))
    assert ranks.pass_seconds(300) is None
    ranks.states[1] = at(0, marks=1)
    assert ranks.pass_seconds(20).task == 1


def test_a_stopped_process_in_the_same_operation_is_silent() -> None:
    ranks = Ranks(r0=waits(14), r1=waits(14))
    assert ranks.pass_seconds(3) is None
    found = ranks.pass_seconds(20, silent=(1,))
    assert (found.task, found.seconds, found.silent) == (1, 10.0, True)
    assert ranks.now == 13.0


def test_two_stopped_processes_do_not_hide_each_other() -> None:
    ranks = Ranks(r0=waits(14), r1=waits(14), r2=waits(14))
    ranks.pass_seconds(1)
    found = ranks.pass_seconds(20, silent=(1, 2))
    assert found.task in (1, 2)
    assert found.waiting == (0,)


def test_nobody_is_blamed_when_all_wait_in_the_same_operation() -> None:
    assert Ranks(r0=waits(14), r1=waits(14)).pass_seconds(300) is None


def test_nobody_is_blamed_when_nobody_waits() -> None:
    assert Ranks(r0=at(14), r1=at(13)).pass_seconds(300) is None


def test_a_rank_that_left_the_operation_before_is_waited_for() -> None:
    ranks = Ranks(r0=waits(14), r1=waits(13))
    assert ranks.pass_seconds(20).task == 1


def test_a_driver_that_was_stopped_itself_blames_nobody() -> None:
    ranks = Ranks(r0=waits(14), r1=at(13))
    assert ranks.pass_seconds(5) is None
    ranks.now += 3600
    assert ranks.watch.stalled(ranks.now) is None
    assert ranks.pass_seconds(9) is None
    assert ranks.pass_seconds(1).seconds == 10.0


def test_a_heartbeat_is_a_small_part_of_the_limit() -> None:
    assert [heartbeat_s(limit) for limit in (1, 10, 120, 3600)] == [0.1, 0.5, 5.0, 5.0]


class Clock:
    now = 100.0

    @classmethod
    def monotonic(cls) -> float:
        return cls.now


@pytest.fixture
def gang(monkeypatch: pytest.MonkeyPatch) -> GangState:
    """Ranks 0 and 1 in partitions 1 and 0, which have come to their fourth step."""
    monkeypatch.setattr("spark_dlobd.backends.gang.time", Clock)
    monkeypatch.setattr(Clock, "now", 100.0)
    state = GangState(Reporter(epochs=1, batch_size=1, verbose=0), 2, watch=StallWatch(5.0))
    for task, rank in ((0, 1), (1, 0)):
        state.take(task, Placed(rank, f"host{rank}"))
    return state


def beat(state: GangState, task: int, told: Any) -> None:
    state.take(task, told)


def stall(state: GangState, seconds: int) -> None:
    """Rank 1, of partition 0, stays in a callback while rank 0 waits."""
    for _ in range(seconds + 1):
        beat(state, 1, waits(4))
        beat(state, 0, at(3, phase="train epoch 0, after step 3"))
        state.raise_if_stalled()
        Clock.now += 1.0


def test_the_error_names_rank_host_phase_and_setting(gang: GangState) -> None:
    stall(gang, 4)
    with pytest.raises(WorkerStalledError) as caught:
        stall(gang, 1)
    error = caught.value
    assert isinstance(error, TrainingTimeoutError)
    assert isinstance(error, WorkerError)
    assert (error.rank, error.host, error.phase) == (1, "host1", "train epoch 0, after step 3")
    assert str(error) == (
        "Rank 1 on host1 failed in phase 'train epoch 0, after step 3': it came no further for "
        "5 s in which rank 0 waited for it. If that is normal for this model or a callback, raise "
        "stall_timeout_s=5 of the backend's config."
    )


def test_a_rank_that_failed_is_the_reason_and_no_stall(gang: GangState) -> None:
    stall(gang, 4)
    failure = Failure("user", "ValueError", "no", "p", rank=1, host="host1")
    gang.take(0, Failed(failure))
    stall(gang, 20)
    assert not isinstance(gang.error(None), WorkerStalledError)


def test_who_gave_up_waiting_is_not_who_is_named(gang: GangState) -> None:
    """Gloo's own limit may end an operation before ours does."""
    gang.watch = StallWatch(120.0)
    stall(gang, 30)
    message = "Timed out waiting 30000ms\nfor recv"
    failure = Failure(
        "peer", "HorovodInternalError", message, "train epoch 0 step 4", "", 0, "host0"
    )
    gang.take(1, Failed(failure))
    Clock.now += 10.0
    error = gang.error(None)
    assert isinstance(error, WorkerStalledError)
    assert error.rank == 1
    assert "Rank 0 gave up: HorovodInternalError: Timed out waiting 30000ms" in str(error)


def test_an_executor_that_went_away_is_lost_and_not_stalled(gang: GangState) -> None:
    stall(gang, 3)
    gang.take(0, Disconnected())
    stall(gang, 20)
    error = gang.error(RuntimeError("Job aborted: ExecutorLostFailure"))
    assert isinstance(error, WorkerLostError)
    assert error.rank == 1


def test_a_loop_that_is_watched_no_more_does_not_stall(gang: GangState) -> None:
    gang.take(1, Result({}, {}, 0))
    stall(gang, 60)
