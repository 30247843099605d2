"""Events, phase timers and lengths of the shuffle backend's jobs."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from spark_dlobd.backends.shuffle.fit import JobLostError, ShuffleFit
from spark_dlobd.backends.shuffle.spark.events import EventStream
from spark_dlobd.backends.shuffle.spark.explain import StateLostOnHostError
from spark_dlobd.backends.shuffle.spark.job_length import JobLength
from spark_dlobd.backends.shuffle.spark.jobs import JobRunner
from spark_dlobd.backends.shuffle.stages.task import StartPoint
from spark_dlobd.backends.shuffle.timers import Timers
from spark_dlobd.backends.shuffle.wire.events import WarmedUp, Worked
from spark_dlobd.errors import WorkerError, WorkerLostError
from spark_dlobd.processes.events import Event, Failed
from spark_dlobd.processes.failure import Failure


def event_stream() -> EventStream:
    context: Any = SimpleNamespace(
        accumulator=lambda value, param: SimpleNamespace(value=value, param=param)
    )
    return EventStream(context)


def tell(stream: EventStream, *events: Event) -> None:
    """What Spark does when a task has ended."""
    accumulator: Any = stream.accumulator
    accumulator.param.addInPlace(
        accumulator.value, [json.dumps(event.to_json()) for event in events]
    )


def test_events_are_heard_in_order() -> None:
    stream = event_stream()
    tell(stream, WarmedUp(1), WarmedUp(2))
    tell(stream, WarmedUp(0))
    heard = [stream.next(0) for _ in range(4)]
    assert heard == [WarmedUp(1), WarmedUp(2), WarmedUp(0), None]


def test_a_workers_accumulator_grows_and_forgets_the_queue() -> None:
    import pickle

    accumulator: Any = event_stream().accumulator
    param = pickle.loads(pickle.dumps(accumulator.param))
    assert param.addInPlace(param.addInPlace(param.zero([]), ["a"]), ["b"]) == ["a", "b"]


class Telling:
    """A Spark job that tells what it tells and is over."""

    is_running = False
    error = None
    rows: tuple[bytes, ...] = ()

    def __init__(self, stream: EventStream, *events: Event) -> None:
        self._told = lambda: tell(stream, *events)

    def start(self) -> None:
        self._told()

    def join(self) -> None:
        pass


@pytest.mark.parametrize(
    ("cause", "kind", "text"),
    [("lost", JobLostError, "Rank 0 on h: gone"), ("user", WorkerError, "ValueError: gone")],
)
def test_what_a_failed_job_told_is_not_heard_in_the_next(
    monkeypatch: pytest.MonkeyPatch, cause: Any, kind: type, text: str
) -> None:
    stream = event_stream()
    lost = [Failure(cause, "ValueError", "gone", "p", rank=rank, host="h") for rank in (0, 1)]
    running = [
        # two slices of one executor
        Telling(stream, *(Failed(each) for each in lost)),
        Telling(stream, WarmedUp(0)),
    ]
    monkeypatch.setattr(
        "spark_dlobd.backends.shuffle.spark.jobs.SparkJob", lambda *arguments: running.pop(0)
    )
    heard: list[Any] = []
    spark: Any = None
    runner = JobRunner(spark, "unit", stream, heard.append)
    with pytest.raises(kind, match=text):
        runner.run(lambda context: [], "first", 1.0)
    assert runner.run(lambda context: [], "second", 1.0) == []
    assert heard == [WarmedUp(0)]


class Recorded:
    """What a fit has of its job, its options and its reporter; jobs that fail or not."""

    def __init__(self, max_restarts: int, *outcomes: Any) -> None:
        self._job = SimpleNamespace(run_id="unit")
        self._config = SimpleNamespace(max_restarts=max_restarts)
        self._phase = "train epoch 0"
        self._restarts = self._repeats = 0
        self._runner = SimpleNamespace(run=self._run)
        self._reporter = SimpleNamespace(warn=self.warn)
        self._outcomes = list(outcomes)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def _run(self, action: Any, name: str, timeout_s: float) -> Any:
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def attempt(self) -> Any:
        fit: Any = self
        return ShuffleFit._attempt(fit, None, "epoch 1 of 2, steps 5 to 9", 1.0)


KILLED = JobLostError("It was killed.", "\nSpark says: no", (1, "h"), killed=True)


def test_a_job_that_spark_gave_up_is_run_again() -> None:
    fit = Recorded(2, KILLED, KILLED, ["done"])
    assert fit.attempt() == ["done"]
    assert (fit._restarts, fit._repeats) == (2, 0)
    name = "spark-dlobd unit: epoch 1 of 2, steps 5 to 9 is run again from its checkpoint"
    assert [text.partition(" (")[0] for text in fit.warnings] == [name] * 2
    assert "(restart 2 of 2). Rank 1 on h: It was killed." in fit.warnings[1]


def test_restarts_are_used_up() -> None:
    fit = Recorded(1, KILLED, KILLED, ["never"])
    with pytest.raises(WorkerLostError, match="max_restarts=1 of ShuffleConfig are used up") as it:
        fit.attempt()
    assert (it.value.rank, it.value.host, it.value.phase) == (1, "h", "train epoch 0")
    assert len(fit.warnings) == 1


def test_a_job_that_lost_its_state_is_no_restart() -> None:
    gone = StateLostOnHostError("Slice 1 is not on this host.", where=(1, "h"))
    fit = Recorded(0, gone, ["done"])
    assert fit.attempt() == ["done"]
    assert (fit._restarts, fit._repeats) == (0, 1)
    assert "(repeat 1 for lost state). Rank 1 on h: Slice 1" in fit.warnings[0]


def test_what_would_fail_again_is_not_run_again() -> None:
    full = JobLostError("No space left.", where=(0, "h"), repeatable=False)
    fit = Recorded(2, full, ["never"])
    with pytest.raises(WorkerError, match=r"No space left\.$"):
        fit.attempt()
    assert fit.warnings == []


def test_a_phase_takes_as_long_as_its_slowest_worker() -> None:
    timers = Timers()
    for step, seconds in ((0, (1.0, 3.0)), (1, (2.0, 1.0))):
        for rank, each in enumerate(seconds):
            timers.take(Worked(rank, 0, step, {"compute": each}))
    # a repeated task tells again
    timers.take(Worked(0, 0, 0, {"compute": 1.0, "update": 0.5}))
    timers.end_job(seconds=7.0, synchronizations=2)
    report = timers.report()
    assert report["compute"] == 3.0 + 2.0
    assert report["update"] == 0.5
    assert report["scheduling"] == 7.0 - 5.5
    assert timers.synchronizations == 2
    timers.end_job(seconds=1.0, synchronizations=1)
    assert timers.report()["scheduling"] == 2.5
    assert timers.report()["compute"] == 5.0


def test_more_phases_than_time_leave_nothing_for_spark() -> None:
    timers = Timers()
    timers.take(Worked(0, 0, 0, {"compute": 3.0}))
    timers.end_job(seconds=2.0, synchronizations=1)
    assert timers.report()["scheduling"] == 0.0


def test_jobs_grow_to_some_seconds() -> None:
    length = JobLength(None, bytes_each=1000)
    lengths = []
    for _ in range(4):
        lengths.append(length.next)
        length.took(0.1 * length.next, length.next)
    # 50 of 0.1 s would be 5 s; powers of two, four times as long at most
    assert lengths == [4, 16, 32, 32]


def test_slow_steps_shorten_jobs() -> None:
    length = JobLength(None, bytes_each=1000)
    length.took(100.0, 4)
    assert length.next == 1


def test_shuffle_files_bound_a_job() -> None:
    assert JobLength(None, bytes_each=1 << 30).next == 2
    assert JobLength(None, bytes_each=1 << 40).next == 1
    length = JobLength(None, bytes_each=1 << 27)
    for _ in range(5):
        length.took(0.001, length.next)
    assert length.next == 16


def test_what_the_user_wants_is_not_learned_away() -> None:
    length = JobLength(7, bytes_each=1 << 40)
    length.took(1000.0, 7)
    assert length.next == 7


def test_positions_in_use() -> None:
    start = StartPoint((0, 4), (0, 4), (1, 0))
    assert start.positions == {(0, 4), (1, 0)}
