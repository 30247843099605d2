"""The function that a worker runs for a chunk: several steps in one graph.

Runs on each worker, built by the coordinator. Imported late: it imports TensorFlow.
The weights and the optimizer's state are variables of the servers. What a step changes
besides them (metrics, moving statistics, random states) is kept functionally with
``keras.StatelessScope``: metrics stay on the worker and travel once a call, statistics
go to the servers as differences, so that workers do not overwrite each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spark_dlobd.backends.parameter_server.tokens import call_function
from spark_dlobd.data.feed import cast_inputs
from spark_dlobd.job.columns import ColumnSpec
from spark_dlobd.job.dataset import Split
from spark_dlobd.training.step import capture_gradients

Apply = Callable[[list[Any], list[Any]], None]


class ModelState:
    """The variables of a model by what becomes of them in a step."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.metrics: list[Any] = list(model.metrics_variables)
        self.trainable: list[Any] = list(model.trainable_variables)
        self.others: list[Any] = list(model.non_trainable_variables)

    def scope(self, metrics: Sequence[Any]) -> tuple[Any, list[Any]]:
        """Scope in which a step changes no variable, and the other variables' values."""
        values = [tf.convert_to_tensor(variable.value) for variable in self.others]
        scope = keras.StatelessScope(collect_losses=True)
        for variable in self.trainable:
            # the variable itself: gradients are taken with respect to it
            scope.add_update((variable, variable.value))
        for variable, value in zip(self.others, values, strict=True):
            scope.add_update((variable, value))
        for variable, value in zip(self.metrics, metrics, strict=True):
            scope.add_update((variable, value))
        return scope, values

    def metrics_in(self, scope: Any) -> list[Any]:
        """Metric state after a step."""
        return [
            tf.cast(tf.ensure_shape(scope.get_current_value(v), v.shape), v.value.dtype)
            for v in self.metrics
        ]

    def write_others(self, scope: Any, before: Sequence[Any]) -> None:
        """Send what a step changed besides the weights, as differences."""
        for variable, old in zip(self.others, before, strict=True):
            new = scope.get_current_value(variable)
            if new is old:
                continue
            raw = variable.value
            if raw.dtype.is_floating or raw.dtype.is_integer:
                raw.assign_add(tf.cast(new, raw.dtype) - tf.cast(old, raw.dtype))
            else:
                raw.assign(new)


def fresh_metrics(model: Any) -> list[Any]:
    """Metric state before the first row."""
    model.reset_metrics()
    return [np.asarray(variable) for variable in model.metrics_variables]


class CallBuilder:
    """Makes the functions that workers run.

    Parameters
    ----------
    model : keras.Model
        Built under the strategy and compiled.
    strategy : tf.distribute.ParameterServerStrategy
        Where its variables live.
    columns : ColumnSpec
        What the readers give of rows that validate.
    trained : ColumnSpec
        What they give of rows that train.
    batch_size : int
        Rows of one step.
    weigh : callable or None
        Applied to every training batch ``(x, y)`` or ``(x, y, weight)``.
    apply : callable
        Given gradients and variables, updates the servers.
    """

    def __init__(
        self,
        model: Any,
        strategy: Any,
        columns: ColumnSpec,
        trained: ColumnSpec,
        batch_size: int,
        weigh: Callable[..., Any] | None,
        apply: Apply,
    ) -> None:
        self._model = model
        self._strategy = strategy
        self._columns = {"train": trained, "validation": columns}
        self._batch_size = batch_size
        self._weigh = weigh
        self._apply = apply
        self._state = ModelState(model)
        self._fresh = fresh_metrics(model)
        self._counter = model.optimizer.iterations.value

    def train_call(self) -> Any:
        """Function of ``(epoch, chunk, next chunk)`` that trains on a chunk.

        Returns a dict: ``states``, the metric state after each step, each of shape
        ``(steps, ...)``; ``logs``, what a custom ``train_step`` returned, each ``(steps,)``;
        ``staleness`` ``(steps,)``; ``rows``, ``worker``, ``reading_s`` and ``total_s``.
        """
        return self._call("train", self._train_step, self._custom_logs("train", "train_step"))

    def test_call(self) -> Any:
        """Function of ``(epoch, chunk, next chunk)`` that only evaluates a chunk."""
        names = self._custom_logs("validation", "test_step")
        return self._call("validation", self._test_step, names)

    def _custom_logs(self, split: Split, method: str) -> tuple[str, ...]:
        """Names that a custom step returns beside the metrics; found by tracing it once."""
        if getattr(type(self._model), method) is getattr(keras.Model, method):
            return ()
        step = self._train_step if method == "train_step" else self._test_step
        names: list[str] = []

        def probe(*columns: Any) -> Any:
            batch = self._batch(split, columns)
            return self._strategy.run(lambda b: step(b, self._fresh, names)[1], args=(batch,))

        with self._strategy.scope():
            tf.function(probe, autograph=False).get_concrete_function(*self._batch_spec(split))
        return tuple(names)

    def _batch_spec(self, split: Split) -> list[Any]:
        return [
            tf.TensorSpec((None, *column.shape), tf.as_dtype(column.dtype))
            for column in self._columns[split].all
        ]

    def _batch(self, split: Split, tensors: Sequence[Any]) -> tuple[Any, ...]:
        columns = self._columns[split]
        return columns.packed(cast_inputs(columns, tensors))

    def _train_step(
        self, batch: Any, metrics: Sequence[Any], names: Any = ()
    ) -> tuple[list[Any], list[Any], Any]:
        before = self._counter.read_value()
        scope, others = self._state.scope(metrics)
        if self._weigh is not None:
            batch = self._weigh(*batch)
        with scope:
            logs, pairs = capture_gradients(self._model, self._model.train_step, batch)
        self._state.write_others(scope, others)
        present = [(g, v) for g, v in pairs if g is not None]
        self._apply([g for g, _ in present], [v for _, v in present])
        staleness = self._counter.read_value() - before - 1
        return self._state.metrics_in(scope), self._logs(logs, names), staleness

    def _test_step(
        self, batch: Any, metrics: Sequence[Any], names: Any = ()
    ) -> tuple[list[Any], list[Any], Any]:
        scope, _ = self._state.scope(metrics)
        with scope:
            logs = self._model.test_step(batch)
        zero = tf.zeros((), self._counter.dtype)
        return self._state.metrics_in(scope), self._logs(logs, names), zero

    def _logs(self, logs: Any, names: Any) -> list[Any]:
        """Scalars of a step by name; a list of names is filled, a tuple selects."""
        flat = {
            name: tf.cast(tf.reshape(tf.convert_to_tensor(value), ()), tf.float32)
            for name, value in (logs or {}).items()
            if not isinstance(value, dict)
        }
        if isinstance(names, list):
            names[:] = sorted(flat)
        return [flat[name] for name in names]

    def _call(self, split: Split, step: Callable[..., Any], names: tuple[str, ...]) -> Any:
        specs = self._batch_spec(split)

        def call(order: Any) -> dict[str, Any]:
            began = tf.timestamp()
            dtypes = [spec.dtype for spec in specs] + [tf.int64, tf.float64]
            *columns, worker, waited = call_function(split, [order], dtypes)
            columns = [tf.ensure_shape(c, s.shape) for c, s in zip(columns, specs, strict=True)]
            rows = tf.shape(columns[0])[0]
            states, logs, staleness = self._loop(split, columns, rows, step, names)
            with tf.control_dependencies([staleness, *states]):
                total = tf.timestamp() - began
            return {
                "states": states,
                "logs": dict(zip(names, logs, strict=True)),
                "staleness": staleness,
                "rows": rows,
                "worker": worker,
                "reading_s": waited,
                "total_s": total,
            }

        return tf.function(call, autograph=False)

    def _loop(
        self,
        split: Split,
        columns: list[Any],
        rows: Any,
        step: Callable[..., Any],
        names: tuple[str, ...],
    ) -> tuple[list[Any], list[Any], Any]:
        steps = -(-rows // self._batch_size)
        fresh = [tf.constant(value) for value in self._fresh]

        def arrays(dtypes: Sequence[Any]) -> list[Any]:
            return [tf.TensorArray(dtype, size=steps) for dtype in dtypes]

        def body(s: Any, metrics: Any, states: Any, logs: Any, stale: Any) -> Any:
            rows = [c[s * self._batch_size : (s + 1) * self._batch_size] for c in columns]
            batch = self._batch(split, rows)
            after, said, lag = self._strategy.run(step, args=(batch, metrics, names))
            return (
                s + 1,
                after,
                [array.write(s, value) for array, value in zip(states, after, strict=True)],
                [array.write(s, value) for array, value in zip(logs, said, strict=True)],
                stale.write(s, lag),
            )

        _, _, states, logs, stale = tf.while_loop(
            lambda s, *_: s < steps,
            body,
            (
                tf.constant(0),
                fresh,
                arrays([value.dtype for value in fresh]),
                arrays([tf.float32] * len(names)),
                tf.TensorArray(self._counter.dtype, size=steps),
            ),
            parallel_iterations=1,
        )
        return [a.stack() for a in states], [a.stack() for a in logs], stale.stack()
