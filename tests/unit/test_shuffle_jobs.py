"""Events, phase timers and lengths of the shuffle backend's jobs."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from spark_dlobd.backends.shuffle.fit import JobLostError
from spark_dlobd.backends.shuffle.spark.events import EventStream
from spark_dlobd.backends.shuffle.spark.job_length import JobLength
from spark_dlobd.backends.shuffle.spark.jobs import JobRunner
from spark_dlobd.backends.shuffle.stages.task import StartPoint
from spark_dlobd.backends.shuffle.timers import Timers
from spark_dlobd.backends.shuffle.wire.events import WarmedUp, Worked
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


def test_what_a_failed_job_told_is_not_heard_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = event_stream()
    lost = [Failure("lost", "", "gone", "p", rank=rank, host="h") for rank in (0, 1)]
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
    with pytest.raises(JobLostError, match="Rank 0 on h: gone"):
        runner.run(lambda context: [], "first", 1.0)
    assert runner.run(lambda context: [], "second", 1.0) == []
    assert heard == [WarmedUp(0)]


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
