"""Where the time of the training steps goes. Runs on each worker.

Imported late: it imports TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spark_dlobd.training.callbacks import GroupBegin
from spark_dlobd.training.collective import Collective
from spark_dlobd.training.sampling import Sampler

_MOST_SAMPLES = 512

Tell = Callable[[dict[str, Any]], None]


class InputWait:
    """Seconds in which steps waited for their next batch.

    The thread that reads ahead notes when each batch is ready, the loop when it asks for
    one; a batch that was ready before is not waited for. So the step itself has no clock in
    it. With ``steps_per_execution`` above 1 the loop asks for several batches at once, and
    the sum is an upper bound of the wait.

    Parameters
    ----------
    steps : int
        Steps of an epoch.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._ready: list[Any] = []
        self._positions: list[Any] = []
        self._asked: list[tuple[int, float]] = []

    def noter(self) -> Callable[..., Any]:
        """Function for one reader's batches, in the order of the steps; returns them."""
        with tf.device("CPU:0"):
            ready = tf.Variable(np.zeros(self._steps), dtype=tf.float64, trainable=False)
            position = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._ready.append(ready)
        self._positions.append(position)

        def note(*batch: Any) -> Any:
            index = position.assign_add(1) - 1
            there = [tensor for tensor in tf.nest.flatten(batch) if tensor is not None]
            with tf.control_dependencies(there):
                ready.scatter_update(tf.IndexedSlices(tf.timestamp(), index))
            return batch

        return note

    def ask(self, step: int) -> None:
        """The loop asks for the batch of a step, and with it for those up to the next call."""
        self._asked.append((step, time.time()))

    def restart(self) -> None:
        """Begin an epoch, before its first batch is read."""
        self._asked.clear()
        for ready, position in zip(self._ready, self._positions, strict=True):
            ready.assign(tf.zeros_like(ready))
            position.assign(0)

    def seconds(self, steps: int) -> float:
        """Since `restart`, in the first `steps` steps."""
        ready = np.max([np.asarray(variable) for variable in self._ready], axis=0)
        return waited_for_batches(ready[:steps], self._asked)


def waited_for_batches(ready: Any, asked: list[tuple[int, float]]) -> float:
    """Seconds between asking for a batch and its being ready. Pure.

    Parameters
    ----------
    ready : numpy.ndarray
        When the batch of each step was ready.
    asked : list of (int, float)
        A step and when batches from that one on were asked for.

    Examples
    --------
    >>> waited_for_batches(np.array([3.0, 4.0, 9.0]), [(0, 1.0), (1, 5.0), (2, 8.0)])
    3.0
    """
    calls = [(step, when) for step, when in asked if step < len(ready)]
    if not calls:
        return 0.0
    steps, when = map(np.array, zip(*calls, strict=True))
    return float(np.maximum(np.maximum.reduceat(ready, steps) - when, 0.0).sum())


class CommunicationTime:
    """Seconds from a rank's gradients being ready to the averages being there.

    Gradients travel as one group, which starts when the last one is ready, so clock
    readings before and after take away no overlap with the backward pass. The time
    includes waiting for slower ranks: `split` tells the two apart.

    Parameters
    ----------
    steps : int
        Steps of an epoch; of up to 512 of them the single times are kept.
    """

    def __init__(self, steps: int) -> None:
        self._every = -(-steps // _MOST_SAMPLES)
        samples = -(-steps // self._every)
        with tf.device("CPU:0"):
            self._seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)
            self._samples = tf.Variable(np.zeros(samples), dtype=tf.float64, trainable=False)

    def measured(
        self, average: Callable[[list[Any]], list[Any]], gradients: list[Any], position: Any
    ) -> list[Any]:
        """Run `average`, between two clock readings; inside the step's graph.

        Parameters
        ----------
        average : callable
            Averages over ranks.
        gradients : list of tensor
            Of this rank.
        position : tensor
            Number of the step in the epoch, from 0.
        """
        with tf.control_dependencies(gradients):
            began = tf.timestamp()
        with tf.control_dependencies([began]):
            averages = average(gradients)
        with tf.control_dependencies(averages):
            seconds = tf.timestamp() - began
        self._seconds.assign_add(seconds)
        self._samples.scatter_update(tf.IndexedSlices(seconds, position // self._every))
        with tf.control_dependencies([seconds]):
            return [tf.identity(average) for average in averages]

    def restart(self) -> None:
        """Begin an epoch."""
        self._seconds.assign(0.0)
        self._samples.assign(tf.zeros_like(self._samples))

    @property
    def seconds(self) -> float:
        """Since `restart`."""
        return float(self._seconds)

    def split(self, group: Collective) -> float:
        """Seconds of this rank's time in which it waited for slower ranks.

        In each step the rank that comes last waits for nobody, so what it took is the
        communication itself, and what another rank took longer it waited. Every rank calls
        this after an epoch.
        """
        samples = np.asarray(self._samples)
        return waiting_seconds(group.gather(samples), group.rank, self.seconds)


def waiting_seconds(samples: Any, rank: int, total: float) -> float:
    """Share of `total` in which `rank` waited, by the steps that were sampled. Pure.

    Parameters
    ----------
    samples : numpy.ndarray
        Seconds, shape ``(ranks, steps)``.
    rank : int
        Which of them.
    total : float
        Its seconds over all steps.

    Examples
    --------
    >>> waiting_seconds(np.array([[1.0, 3.0], [2.0, 1.0]]), rank=0, total=8.0)
    4.0
    """
    own = float(samples[rank].sum())
    alone = float(samples.min(axis=0).sum())
    return total * (own - alone) / own if own > 0 else 0.0


class Measuring(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells at the end of each epoch where its time went. Runs after `GroupBegin`.

    Parameters
    ----------
    group : Collective
        The ranks.
    steps : int
        Steps of an epoch.
    begin : GroupBegin
        Times the epochs.
    wait : InputWait
        For the batches.
    communication : CommunicationTime or None
        In the step; None in a group of one, and on GPUs.
    sampler : Sampler
        Runs meanwhile.
    tell : callable
        Takes what `Observed.measured` wants.
    """

    def __init__(
        self,
        group: Collective,
        steps: int,
        begin: GroupBegin,
        wait: InputWait,
        communication: CommunicationTime | None,
        sampler: Sampler,
        tell: Tell,
    ) -> None:
        super().__init__()
        self._group = group
        self._steps_planned = steps
        self._begin = begin
        self._wait = wait
        self._communication = communication
        self._sampler = sampler
        self._tell = tell
        self._began = 0.0
        self._steps = 0
        self._first: tuple[int, float] | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clocks."""
        self._wait.restart()
        if self._communication is not None:
            self._communication.restart()
        self._began = time.monotonic()
        self._steps = 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Take the time."""
        self._wait.ask(batch)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Count; time the first call, in which TensorFlow traces the step."""
        self._steps = batch + 1
        if self._first is None:
            seconds = time.monotonic() - self._began - self._wait.seconds(self._steps)
            self._first = self._steps, seconds
            if self._communication is not None and self._steps < self._steps_planned:
                # ranks trace at different speeds: what they wait for each other is start-up
                self._communication.restart()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Tell the epoch."""
        times: dict[str, Any] = {
            "epoch": epoch,
            "steps": self._steps,
            "seconds": self._begin.epoch_seconds[-1],
            "input": self._wait.seconds(self._steps),
            "communication": None,
            "waiting": None,
        }
        if self._communication is not None:
            waiting = self._communication.split(self._group)
            times["waiting"] = waiting
            times["communication"] = self._communication.seconds - waiting
        elif self._group.size == 1:
            times["communication"] = times["waiting"] = 0.0
        times["tracing"] = 0.0 if epoch else self._tracing(times)
        self._tell({"times": times, **self._sampler.drain()})

    def _tracing(self, times: dict[str, Any]) -> float:
        """What the first call of the fit took longer than others."""
        first_steps, first = self._first or (0, 0.0)
        moved = (times["communication"] or 0.0) + (times["waiting"] or 0.0)
        computing = times["seconds"] - times["input"] - moved
        return tracing_seconds(first_steps, first, self._steps, computing)


class Measurement:
    """All that measures one rank's training; nothing, if nobody is told.

    Parameters
    ----------
    tell : callable or None
        Takes what `Observed.measured` wants.
    group : Collective
        The ranks.
    steps : int
        Steps of an epoch.
    """

    def __init__(self, tell: Tell | None, group: Collective, steps: int) -> None:
        self._tell = tell
        self._group = group
        self._steps = steps
        self.communication: CommunicationTime | None = None
        if tell is None:
            return
        self._wait = InputWait(steps)
        self._sampler = Sampler()
        if group.size > 1 and not _gradients_on_gpu():
            self.communication = CommunicationTime(steps)

    def noter(self) -> Callable[..., Any] | None:
        """What notes the batches of one reader for `InputWait`."""
        return None if self._tell is None else self._wait.noter()

    def callbacks(self, begin: GroupBegin) -> list[Any]:
        """What is to run directly after `begin`."""
        if self._tell is None:
            return []
        return [
            Measuring(
                self._group,
                self._steps,
                begin,
                self._wait,
                self.communication,
                self._sampler,
                self._tell,
            )
        ]

    def __enter__(self) -> Measurement:
        if self._tell is not None:
            self._sampler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._tell is None:
            return
        self._sampler.stop()
        if kind is None:
            self._tell(self._sampler.drain())


def _gradients_on_gpu() -> bool:
    """Whether the clock would see that a GPU was given work, not that it has done it."""
    return bool(tf.config.list_physical_devices("GPU"))


def tracing_seconds(first_steps: int, first: float, steps: int, computing: float) -> float:
    """Seconds the first call of a step took beyond a usual one; 0 if there is no other. Pure.

    Parameters
    ----------
    first_steps : int
        Steps in that call.
    first : float
        Its seconds without the wait for a batch.
    steps : int
        Steps of the epoch.
    computing : float
        Computing seconds of the epoch.

    Examples
    --------
    >>> tracing_seconds(1, 3.0, 11, 8.0)
    2.5
    """
    if steps <= first_steps:
        return 0.0
    usual = (computing - first) / (steps - first_steps)
    return max(first - usual * first_steps, 0.0)
