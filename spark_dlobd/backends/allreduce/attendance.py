"""How far a rank has come, told to the driver while it trains. Runs on each worker.

The driver compares the ranks (`backends.stall`). Imported late: it imports TensorFlow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from spark_dlobd.processes.events import Attended


class Attendance:
    """Counts the collective operations that this rank has joined and left.

    Every rank joins the same ones in the same order, so the counts compare. Those inside a
    step are counted by the step's graph, when the gradients of this rank are ready.
    """

    def __init__(self) -> None:
        with tf.device("CPU:0"):
            self._joined = tf.Variable(0, dtype=tf.int64, trainable=False, name="joined")
            self._left = tf.Variable(0, dtype=tf.int64, trainable=False, name="left")
        self._joined_eagerly = 0
        self._left_eagerly = 0
        self._marks = 0
        self._phase = "train, before the first epoch"
        self._may_compile = False

    @contextmanager
    def joining(self) -> Iterator[None]:
        """Around a collective operation outside of steps."""
        self._joined_eagerly += 1
        yield
        self._left_eagerly += 1

    def around(self, operation: Callable[[list[Any]], list[Any]], tensors: list[Any]) -> list[Any]:
        """Run `operation` on `tensors`, which it waits for; inside the step's graph."""
        with tf.control_dependencies(tensors):
            joined = self._joined.assign_add(1, read_value=False)
        with tf.control_dependencies([joined]):
            results = operation(tensors)
        with tf.control_dependencies(results):
            left = self._left.assign_add(1, read_value=False)
        with tf.control_dependencies([left]):
            return [tf.identity(result) for result in results]

    def mark(self, phase: str, may_compile: bool = False) -> None:
        """Note what this rank does from now on; each call is progress.

        Parameters
        ----------
        phase : str
            For messages.
        may_compile : bool, default False
            Whether TensorFlow may trace and compile meanwhile, which has no known length.
        """
        self._phase = phase
        self._may_compile = may_compile
        self._marks += 1

    def state(self) -> Attended:
        """Tell it; called from any thread."""
        left = int(self._left) + self._left_eagerly  # first, or it could be ahead
        joined = int(self._joined) + self._joined_eagerly
        return Attended(joined, joined > left, self._marks, self._phase, self._may_compile)


class AttendanceBegin(keras.callbacks.Callback):  # type: ignore[misc]
    """First of all callbacks: what follows it are the others."""

    def __init__(self, attendance: Attendance) -> None:
        super().__init__()
        self._attendance = attendance
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Mark the callbacks of the epoch's begin."""
        self._epoch = epoch
        self._attendance.mark(f"train epoch {epoch}, before its first step")

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Mark the callbacks of the step."""
        self._attendance.mark(f"train epoch {self._epoch}, after step {batch}")

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Mark the callbacks of the validation's begin."""
        self._attendance.mark(f"validate epoch {self._epoch}, before its first step")

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Mark the callbacks of the step."""
        self._attendance.mark(f"validate epoch {self._epoch}, after step {batch}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Mark the callbacks of the epoch's end."""
        self._attendance.mark(f"end of epoch {epoch}")


class AttendanceEnd(keras.callbacks.Callback):  # type: ignore[misc]
    """Last of all callbacks: what follows it is the step itself.

    TensorFlow traces and compiles a step when it first meets the shapes of its batch: in
    the first step, and in the last one of an epoch, which may have fewer rows.

    Parameters
    ----------
    attendance : Attendance
        Of this rank.
    steps, validation_steps : int
        Of an epoch.
    """

    def __init__(self, attendance: Attendance, steps: int, validation_steps: int) -> None:
        super().__init__()
        self._attendance = attendance
        self._steps = steps
        self._validation_steps = validation_steps
        self._epoch = 0
        self._compiled = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Mark the step."""
        text = f"train epoch {self._epoch} step {batch}"
        self._attendance.mark(text, self._may_compile(batch, self._steps))

    def on_test_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Mark the step."""
        text = f"validate epoch {self._epoch} step {batch}"
        self._attendance.mark(text, self._may_compile(batch, self._validation_steps))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Every shape has been met."""
        self._compiled = True

    def _may_compile(self, batch: int, steps: int) -> bool:
        last = batch + self.model.steps_per_execution >= steps
        return not self._compiled and (batch == 0 or last)


class Heartbeat:
    """Tells a state again and again while it is entered, from a thread; a context manager.

    Parameters
    ----------
    state : callable
        What to tell.
    tell : callable
        Takes it; called from the thread.
    every_s : float
        Seconds between two.
    """

    def __init__(
        self,
        state: Callable[[], Attended],
        tell: Callable[[Attended], None],
        every_s: float,
    ) -> None:
        self._state = state
        self._tell = tell
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def _run(self) -> None:
        while True:  # at once: a rank that has told nothing yet cannot be missed
            try:
                self._tell(self._state())
            except OSError:  # the task is gone, and the kernel ends this process with it
                return
            if self._over.wait(self._every_s):
                return

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=5)
