"""What a rank tells of how far it has come."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from spark_dlobd.backends.allreduce.attendance import (
    Attendance,
    AttendanceBegin,
    AttendanceEnd,
    Heartbeat,
)
from spark_dlobd.processes.events import Attended


def test_a_rank_waits_from_its_gradients_being_ready_to_the_averages_being_there() -> None:
    attendance = Attendance()
    ready, averaged = threading.Event(), threading.Event()

    def wait_for(event: threading.Event) -> Any:
        return lambda x: (event.wait(10), x)[1]

    def average(gradients: list[Any]) -> list[Any]:
        return [tf.numpy_function(wait_for(averaged), gradients, tf.float32)]

    @tf.function
    def step(x: Any) -> Any:
        gradient = tf.numpy_function(wait_for(ready), [x], tf.float32)
        return attendance.around(average, [gradient])[0]

    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(step(tf.constant(3.0))))
    thread.start()
    time.sleep(0.5)
    assert counted(attendance) == (0, False)  # computing
    ready.set()
    until(lambda: counted(attendance) == (1, True))
    averaged.set()
    thread.join(timeout=10)
    assert float(results[0]) == 3.0
    assert counted(attendance) == (1, False)


def counted(attendance: Attendance) -> tuple[int, bool]:
    state = attendance.state()
    return state.joined, state.waiting


def until(condition: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_operations_outside_of_steps_count_too() -> None:
    attendance = Attendance()
    with attendance.joining():
        assert counted(attendance) == (1, True)
    assert counted(attendance) == (1, False)


class Asking(keras.callbacks.Callback):  # type: ignore[misc]
    """A user's callback: what would be told while it runs."""

    def __init__(self, attendance: Attendance) -> None:
        super().__init__()
        self._attendance = attendance
        self.phases: list[str] = []

    def ask(self, *_: Any, **__: Any) -> None:
        self.phases.append(self._attendance.state().phase)

    on_train_begin = ask
    on_epoch_begin = ask
    on_train_batch_begin = ask
    on_train_batch_end = ask
    on_test_begin = ask
    on_test_batch_end = ask
    on_epoch_end = ask


class Telling(Attendance):
    """Keeps each mark."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[tuple[str, bool]] = []

    def mark(self, phase: str, may_compile: bool = False) -> None:
        super().mark(phase, may_compile)
        self.marks.append((phase, may_compile))


@pytest.fixture(scope="module")
def fitted() -> tuple[Telling, Asking]:
    """Two epochs of three steps with a validation of two, the last ones of fewer rows."""
    attendance = Telling()
    asking = Asking(attendance)
    x, y = np.ones((10, 2), np.float32), np.ones((10, 1), np.float32)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(
        x,
        y,
        batch_size=4,
        epochs=2,
        verbose=0,
        validation_data=(x[:6], y[:6]),
        validation_batch_size=4,
        callbacks=[AttendanceBegin(attendance), asking, AttendanceEnd(attendance, 3, 2)],
    )
    return attendance, asking


def test_a_callback_of_the_user_is_told_as_what_it_is(fitted: tuple[Telling, Asking]) -> None:
    assert fitted[1].phases[:13] == [
        "train, before the first epoch",
        "train epoch 0, before its first step",
        "train epoch 0, before its first step",
        "train epoch 0, after step 0",
        "train epoch 0, after step 0",
        "train epoch 0, after step 1",
        "train epoch 0, after step 1",
        "train epoch 0, after step 2",
        "validate epoch 0, before its first step",
        "validate epoch 0, after step 0",
        "validate epoch 0, after step 1",
        "end of epoch 0",
        "train epoch 1, before its first step",
    ]


def test_the_first_and_the_last_step_may_compile_once(fitted: tuple[Telling, Asking]) -> None:
    compiling = [phase for phase, may_compile in fitted[0].marks if may_compile]
    assert compiling == [
        "train epoch 0 step 0",
        "train epoch 0 step 2",
        "validate epoch 0 step 0",
        "validate epoch 0 step 1",
    ]
    assert ("train epoch 1 step 2", False) in fitted[0].marks


AT_3 = Attended(3, False, 5, "train epoch 0 step 2", False)


def test_a_rank_is_known_before_its_first_interval_is_over() -> None:
    told: queue.Queue[Attended] = queue.Queue()
    with Heartbeat(lambda: AT_3, told.put, every_s=60):
        assert told.get(timeout=5) == AT_3


def test_heartbeats_end_with_the_block() -> None:
    told: queue.Queue[Attended] = queue.Queue()
    with Heartbeat(lambda: AT_3, told.put, every_s=0.01):
        assert told.get(timeout=5) == AT_3
        assert told.get(timeout=5) == AT_3
    while not told.empty():
        told.get()
    time.sleep(0.1)
    assert told.empty()
