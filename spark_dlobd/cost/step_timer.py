"""Times training steps of a model on rows in memory. Runs on each worker and on the driver.

Imported late: it imports TensorFlow.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from itertools import repeat
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spark_dlobd.data.block import Block
from spark_dlobd.data.feed import step_dataset
from spark_dlobd.data.transform import step_seeds, transformer_of

if TYPE_CHECKING:
    from spark_dlobd.job.train_job import TrainJob

_FEWEST = 6
_MOST = 10_000


class StepTimer:
    """A compiled model and rows to train it on.

    Parameters
    ----------
    model : keras.Model
        It is changed: give one that is thrown away.
    arrays : sequence of numpy.ndarray
        Some rows of each of `columns`.
    job : TrainJob
        What they are, and what changes them ahead of a step.
    """

    def __init__(self, model: Any, arrays: tuple[NDArray[Any], ...], job: TrainJob) -> None:
        self._model = model
        self._columns = job.columns.as_taken
        self._arrays = arrays
        self._transformer = transformer_of(job, "train")
        self.tracing_s = 0.0
        """What the first step took longer than a later one."""

    def trace(self, rows: int) -> None:
        """Run some first steps."""
        seconds = self._run(rows, 0.0)
        self.tracing_s = max(seconds[0] - min(seconds[1:]), 0.0)

    def seconds(self, rows: int, budget_s: float) -> float:
        """Median seconds of the later half of some steps of `rows` rows.

        The first ones trace, and touch memory that the process does not have yet. Of a
        second of steps one that stalls would be most of a mean.
        """
        seconds = self._run(rows, budget_s)
        return statistics.median(seconds[len(seconds) // 2 :])

    def _run(self, rows: int, budget_s: float) -> list[float]:
        """Seconds of each step by Keras's own loop."""
        clock = _Clock(budget_s, self._steps_per_call)
        data = self._steps(tuple(_repeated(array, rows) for array in self._arrays))
        self._model.fit(
            data,
            steps_per_epoch=_MOST * self._steps_per_call,
            epochs=1,
            verbose=0,
            shuffle=False,
            callbacks=[clock],
        )
        return clock.seconds

    def _steps(self, arrays: tuple[NDArray[Any], ...]) -> tf.data.Dataset:
        """One batch again and again; what changes it does so each time."""
        steps = _MOST * self._steps_per_call
        if self._transformer is None:
            batch = self._columns.packed([tf.constant(array) for array in arrays])
            return tf.data.Dataset.from_tensors(batch).repeat(steps)
        transformer, seeds = self._transformer, step_seeds(0, 0, 0, steps)

        def blocks() -> Iterator[Block]:
            return transformer.blocks(repeat(Block(arrays, 1), steps), seeds)

        return step_dataset(blocks, self._columns, steps)

    @property
    def _steps_per_call(self) -> int:
        return int(self._model.steps_per_execution)


class _Clock(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes when steps end, and ends the loop."""

    def __init__(self, budget_s: float, steps_per_call: int) -> None:
        super().__init__()
        self._budget_s = budget_s
        self._steps_per_call = steps_per_call
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = self._last = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        self.seconds.append((now - self._last) / self._steps_per_call)
        self._last = now
        if len(self.seconds) == 1:
            self._began = now  # tracing is no part of the budget
        if len(self.seconds) >= _FEWEST and now - self._began >= self._budget_s:
            self.model.stop_training = True


def _repeated(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """`rows` rows, from the beginning again where there are fewer."""
    repeated: NDArray[Any] = array[np.arange(rows) % len(array)]
    return repeated
