"""What a task does with what its rank tells, with neither Spark nor a rank."""

from __future__ import annotations

import queue
import threading
import time
import types
from collections.abc import Iterable
from typing import Any

import pytest

from spark_dlobd.errors import TrainingTimeoutError
from spark_dlobd.processes.events import Attended, Event, Result, Stacks
from spark_dlobd.processes.supervision import Supervisor

DONE = Result({}, {}, 7)


class Driver:
    """Hears what the task sends."""

    local_address = "127.0.0.1"

    def __init__(self) -> None:
        self.heard: list[Event] = []

    def tell(self, event: Event) -> None:
        self.heard.append(event)


class Rank:
    """Tells a heartbeat in 0.05 s, each with the next of `marks`, and then its result."""

    def __init__(self, marks: Iterable[int]) -> None:
        self._told: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(marks,), daemon=True)
        self._thread.start()

    def _run(self, marks: Iterable[int]) -> None:
        for count in marks:
            time.sleep(0.05)
            self._told.put((heartbeat(count), b""))
        self._told.put((DONE, b"archive"))

    def stacks(self) -> str:
        return "  in wait"

    def event(self, wait_s: float) -> Any:
        try:
            return self._told.get(timeout=wait_s)
        except queue.Empty:
            return None


def heartbeat(marks: int) -> Attended:
    return Attended(0, False, marks, "train epoch 0", False)


def supervised(progress_timeout_s: float) -> Supervisor:
    limits: Any = types.SimpleNamespace(progress_timeout_s=progress_timeout_s)
    return Supervisor(Driver(), 3, limits)  # type: ignore[arg-type]


def test_heartbeats_reach_the_driver() -> None:
    rank: Any = Rank([1, 1, 2])
    supervisor = supervised(5)
    assert supervisor.listen(rank, "", Result) == (DONE, b"archive")
    driver: Any = supervisor.driver
    assert driver.heard == [heartbeat(1), heartbeat(1), heartbeat(2)]


def test_heartbeats_are_no_progress() -> None:
    """A rank whose training hangs goes on to tell that it is there."""
    rank: Any = Rank([1] * 40)
    with pytest.raises(
        TrainingTimeoutError,
        match=r"^Rank 3 on .* told nothing for 0\.5 s in phase 'start'\. If .* raise "
        r"progress_timeout_s of the backend's config\. Its Python stacks:\n  in wait$",
    ):
        supervised(0.5).listen(rank, "", Result)


def test_a_rank_that_comes_no_further_is_asked_what_it_does() -> None:
    rank: Any = Rank([1] * 20)
    limits: Any = types.SimpleNamespace(progress_timeout_s=5)
    supervisor = Supervisor(Driver(), 3, limits, stacks_after_s=0.4)  # type: ignore[arg-type]
    supervisor.listen(rank, "", Result)
    driver: Any = supervisor.driver
    assert [event for event in driver.heard if isinstance(event, Stacks)] == [Stacks("  in wait")]


def test_steps_of_a_long_validation_are_progress() -> None:
    rank: Any = Rank(range(40))
    assert supervised(0.5).listen(rank, "", Result) == (DONE, b"archive")


def test_what_else_is_looked_after_meanwhile() -> None:
    looks: list[None] = []
    rank: Any = Rank(range(3))
    supervised(5).listen(rank, "", Result, lambda: looks.append(None))
    assert len(looks) >= 4
