"""The model inside one Python process: weights in, gradient out.

The driver builds one to learn the layout, each worker one per fit. Imported late:
it imports TensorFlow.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spark_dlobd.job.dataset import DatasetRef
from spark_dlobd.job.train_job import TrainJob
from spark_dlobd.training.loop import RankData, build_model, plans
from spark_dlobd.training.step import capture_gradients, dense

# `_recorded_assignments` replaces a method of a class that all fits of a driver share
_tracing = threading.Lock()


@dataclass(frozen=True)
class Layout:
    """Which variables make the flat vector, and which a worker keeps for itself.

    Attributes
    ----------
    untrained : tuple of str
        Paths of the trainable variables that the loss does not depend on.
    averaged : tuple of int
        Indices into ``model.optimizer.variables`` that follow the trainable variables in
        the vector; empty unless workers take several steps between synchronizations.
    carried : tuple of int
        Indices into non-trainable, metric and optimizer variables, in that order, that a
        step writes: statistics, random state and metrics of one worker.
    """

    untrained: tuple[str, ...]
    averaged: tuple[int, ...]
    carried: tuple[int, ...]


class Replica:
    """A compiled model with its step as functions of flat arrays.

    Parameters
    ----------
    job : TrainJob
        What to train.
    data : DatasetRef
        The materialized rows.
    updates_locally : bool
        Whether a step applies the model's own optimizer (workers then average weights)
        or only computes a gradient.
    layout : Layout, optional
        From `learn_layout` on the driver.
    """

    def __init__(
        self,
        job: TrainJob,
        data: DatasetRef,
        updates_locally: bool = False,
        layout: Layout | None = None,
    ) -> None:
        self.job = job
        self.data = data
        self.updates_locally = updates_locally
        self.model = build_model(job)
        self.plan, self.validation_plan = plans(job, data, job.config.world_size)
        self._spec = _without_absent(self._open(0).dataset(job.config.class_weight).element_spec)
        self._build()
        self.layout = self._learn_layout() if layout is None else layout
        self._assign = self._traced_assign()
        self._feeds: dict[int, _Feed] = {}
        self._holds: tuple[Any, ...] | None = None
        self.seconds_waiting = 0.0
        """Time that steps waited for their batches."""

    def _open(self, rank: int) -> RankData:
        return RankData.open(self.job, self.data, "train", self.plan, [rank])

    def _build(self) -> None:
        """Create the variables of metrics and optimizer, as Keras's fit does before it traces."""
        rows = tf.nest.map_structure(
            _if_there(lambda spec: keras.KerasTensor((2, *spec.shape[1:]), spec.dtype.name)),
            self._spec,
        )
        self.model._symbolic_build(data_batch=rows)
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)

    def _everything_else(self) -> list[Any]:
        model = self.model
        others = [*model.non_trainable_variables, *model.metrics_variables]
        return [*others, *model.optimizer.variables] if self.updates_locally else others

    @property
    def vector(self) -> list[Any]:
        """Variables of the flat vector."""
        own = self.model.optimizer.variables
        return [*self.model.trainable_variables, *(own[i] for i in self.layout.averaged)]

    @property
    def carried(self) -> list[Any]:
        """Variables that each worker has for itself."""
        others = self._everything_else()
        return [others[index] for index in self.layout.carried]

    def _learn_layout(self) -> Layout:
        """Trace one step and see what it needs and writes."""
        model = self.model
        found: set[int] = set()

        def probe(data: Any) -> Any:
            logs, pairs = capture_gradients(model, model.train_step, data)
            found.update(id(variable) for gradient, variable in pairs if gradient is not None)
            return logs

        with _tracing, _recorded_assignments() as written:
            tf.function(probe, autograph=False).get_concrete_function(self._spec)
        averaged = []
        if self.updates_locally:
            own = list(model.optimizer.variables)
            rate = id(getattr(model.optimizer, "_learning_rate", None))
            averaged = [i for i, v in enumerate(own) if "float" in v.dtype and id(v) != rate]
            written |= {id(v) for v in own if "float" not in v.dtype}
        carried = [i for i, v in enumerate(self._everything_else()) if id(v) in written]
        untrained = [v.path for v in model.trainable_variables if id(v) not in found]
        return Layout(tuple(untrained), tuple(averaged), tuple(carried))

    @functools.cached_property
    def _step(self) -> Any:
        """``(batch, scale) -> (logs, flat gradient)``; the gradient is empty for local updates.

        Traced when first used: the driver's replica takes no step.
        """
        model = self.model
        vector = self.vector

        def gradient_of(data: Any, scale: Any) -> tuple[Any, Any]:
            logs, pairs = capture_gradients(model, model.train_step, data)
            found = {id(v): dense(g) for g, v in pairs if g is not None}
            each = [found.get(id(v), tf.zeros(v.shape)) for v in vector]
            flat = [tf.reshape(tf.cast(gradient, tf.float32), [-1]) for gradient in each]
            return logs, tf.concat(flat, 0) * scale

        def update(data: Any, scale: Any) -> tuple[Any, Any]:
            return model.train_step(data), tf.zeros([0])

        step = tf.function(
            update if self.updates_locally else gradient_of,
            autograph=False,  # as in Keras's own fit
            jit_compile=bool(model.jit_compile),
            reduce_retracing=True,
        )
        # one trace for every number of rows; `step` keeps its variables alive
        self._owner = step
        return step.get_concrete_function(self._spec, tf.TensorSpec([], tf.float32))

    def warm_up(self) -> None:
        """Run one step on rows of zeros, then undo what it wrote."""
        before = [np.asarray(v) for v in [*self.vector, *self.carried]]
        rows = tf.nest.map_structure(
            _if_there(lambda spec: tf.zeros([1, *spec.shape[1:]], spec.dtype)), self._spec
        )
        self._step(rows, tf.constant(0.0))
        for variable, value in zip([*self.vector, *self.carried], before, strict=True):
            variable.assign(value)

    def set_vector(self, flat: NDArray[np.float32]) -> None:
        """Assign the flat vector to its variables."""
        self._assign(tf.convert_to_tensor(flat))

    def _traced_assign(self) -> Any:
        vector = self.vector
        sizes = [int(np.prod(v.shape, dtype=np.int64)) for v in vector]

        def assign(flat: Any) -> None:
            for variable, part in zip(vector, tf.split(flat, sizes), strict=True):
                variable.assign(tf.reshape(part, variable.shape))

        return tf.function(
            assign, autograph=False, input_signature=[tf.TensorSpec([sum(sizes)], tf.float32)]
        )

    def get_vector(self) -> NDArray[np.float32]:
        """Read the flat vector."""
        flat: NDArray[np.float32] = np.concatenate(
            [np.zeros(0, np.float32), *(np.asarray(v).reshape(-1) for v in self.vector)]
        )
        return flat

    def restore(self, key: tuple[Any, ...], values: Sequence[NDArray[Any]]) -> None:
        """Assign what a worker carried, unless this process holds exactly that."""
        if self._holds == key:
            return
        for variable, value in zip(self.carried, values, strict=True):
            variable.assign(value)
        self._holds = key

    def carry(self, key: tuple[Any, ...]) -> list[NDArray[Any]]:
        """Read what the worker has to carry; `key` names that state."""
        self._holds = key
        return [variable.value.numpy() for variable in self.carried]

    def step(self, rank: int, epoch: int, step: int) -> tuple[dict[str, float], Any]:
        """One step on the rows of `rank`.

        Returns
        -------
        logs : dict of str to float
            Metrics of the epoch so far, over the rows of this worker.
        gradient : numpy.ndarray
            Shape ``(size of the vector,)``, float32, weighed by the worker's share of
            rows so that the mean over workers is the mean over rows.
        """
        self._holds = None
        feed = self._feeds.setdefault(rank, _Feed(self._open(rank), self.job))
        began = time.perf_counter()
        batch = feed.at(epoch, step)
        self.seconds_waiting += time.perf_counter() - began
        full, tail = self.plan.gradient_scales(rank)
        scale = tail if step == self.plan.steps_per_epoch - 1 else full
        logs, gradient = self._step(batch, tf.constant(scale, tf.float32))
        numbers = {name: float(value) for name, value in logs.items()}
        return numbers, gradient.numpy()

    def evaluate(self, rank: int) -> list[NDArray[Any]]:
        """State of every metric after the validation rows of `rank`; none without rows."""
        assert self.validation_plan is not None
        if not self.validation_plan.rows(rank):
            return []
        rows = RankData.open(self.job, self.data, "validation", self.validation_plan, [rank])
        self._holds = None
        with rows.errors():
            self.model.evaluate(rows.dataset(None), verbose=0)
        return [np.asarray(v) for metric in self.model.metrics for v in metric.variables]

    def close(self) -> None:
        """End the readers."""
        for feed in self._feeds.values():
            feed.close()
        self._feeds.clear()


def _without_absent(spec: Any) -> Any:
    """Spec of a batch with None where an output has no label."""
    return tf.nest.map_structure(lambda one: one if isinstance(one, tf.TensorSpec) else None, spec)


def _if_there(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda one: None if one is None else function(one)


class _Feed:
    """The batches of one rank, kept open from step to step."""

    def __init__(self, data: RankData, job: TrainJob) -> None:
        self._data = data
        self._job = job
        self._epoch = -1
        self._next = 0
        self._batches: Iterator[Any] = iter(())

    def at(self, epoch: int, step: int) -> Any:
        """Batch of a step; the ones before it are skipped, a step back starts anew."""
        if epoch != self._epoch or step < self._next:
            self.close()
            self._data.go_to(epoch)
            self._batches = iter(self._data.dataset(self._job.config.class_weight))
            self._epoch, self._next = epoch, 0
        with self._data.errors():
            while self._next < step:
                next(self._batches)
                self._next += 1
            self._next += 1
            return next(self._batches)

    def close(self) -> None:
        """Let the reader go."""
        self._batches = iter(())
        self._epoch = -1


@contextmanager
def _recorded_assignments() -> Iterator[set[int]]:
    """Ids of the Keras variables that code traced meanwhile assigns."""
    written: set[int] = set()
    original = keras.Variable._direct_assign

    def assign(variable: Any, value: Any) -> Any:
        written.add(id(variable))
        return original(variable, value)

    keras.Variable._direct_assign = assign
    try:
        yield written
    finally:
        keras.Variable._direct_assign = original
