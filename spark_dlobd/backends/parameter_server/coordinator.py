"""Training from the coordinator's side. Runs on each worker (in the first task).

Imported late: it imports TensorFlow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spark_dlobd.backends.parameter_server.checkpoint import (
    Progress,
    checkpoint_url,
    restore,
    save,
)
from spark_dlobd.backends.parameter_server.checks import check_row_updates
from spark_dlobd.backends.parameter_server.chunks import ChunkPlan
from spark_dlobd.backends.parameter_server.cluster import Cluster, is_lost_worker
from spark_dlobd.backends.parameter_server.config import ParameterServerConfig
from spark_dlobd.backends.parameter_server.embedding import spread_embeddings
from spark_dlobd.backends.parameter_server.row_updates import update_rows
from spark_dlobd.backends.parameter_server.source import NO_CHUNK
from spark_dlobd.backends.parameter_server.steps import CallBuilder, fresh_metrics
from spark_dlobd.errors import TrainingError
from spark_dlobd.job.dataset import DatasetRef
from spark_dlobd.job.train_job import TrainJob, TrainResult
from spark_dlobd.processes.failure import NonFiniteLoss
from spark_dlobd.training import keras_codec
from spark_dlobd.training.callbacks import LoopEvents, Telling, callbacks_of_rank
from spark_dlobd.training.loop import class_weigher
from spark_dlobd.training.metric_states import MetricStates
from spark_dlobd.training.state import rank_seeds, seed_states

_MOST_REDONE = 100
_CALLS_AHEAD = 1  # of each worker, beside the one it works on


def train(
    cluster: Cluster,
    job: TrainJob,
    data: DatasetRef,
    config: ParameterServerConfig,
    events: LoopEvents,
) -> TrainResult:
    """Train to the end and return the model with its report."""
    events.phase("build model")
    keras.utils.set_random_seed(job.config.seed)
    with cluster.strategy.scope():
        network = job.network
        model = keras_codec.archive_to_model(network.archive, network.custom_objects)
        pieces = spread_embeddings(model, len(cluster.servers), config.min_partition_bytes)
        keras_codec.compile_model(model, network.compile_config, network.custom_objects)
        check_row_updates(model.optimizer, bool(pieces))
        model.optimizer.build(model.trainable_variables)
        _build_metrics(model, job)
    for variable, value in zip(
        seed_states(model), rank_seeds(model, job.config.seed, 0), strict=True
    ):
        variable.assign(value)
    url = checkpoint_url(data.root, job.run_id) if config.max_restarts else None
    progress = Progress(0, {}) if url is None else restore(url, model)
    training = Training(cluster, model, pieces, job, data, config, events)
    started = time.monotonic()
    history = training.run(progress, url)
    seconds = time.monotonic() - started
    events.phase("collect")
    archive = keras_codec.model_to_archive(model)
    trained = keras_codec.archive_to_model(archive, job.network.custom_objects)
    return TrainResult(
        archive=archive,
        history=history,
        report={
            **training.report(),
            "weights_hash": keras_codec.weights_hash(trained),
            "fit_seconds": seconds,
        },
    )


def _build_metrics(model: Any, job: TrainJob) -> None:
    """Create the variables of losses and metrics, before any graph reads them."""
    model._symbolic_build(data_batch=keras_codec.symbolic_batch(job.columns))


class Hooks:
    """Calls the same method of each callback, in order."""

    def __init__(self, callbacks: Sequence[Any], model: Any, params: dict[str, Any]) -> None:
        self._callbacks = callbacks
        for callback in callbacks:
            callback.set_params(params)
            callback.set_model(model)

    def call(self, name: str, *arguments: Any) -> None:
        """Call method `name` of all."""
        for callback in self._callbacks:
            getattr(callback, name)(*arguments)


class Merger:
    """Metrics over all finished calls, whichever worker made them."""

    def __init__(self, model: Any) -> None:
        self._model = model
        fresh_metrics(model)  # before the first row
        self._states = MetricStates(model.metrics)
        self._names = list(model.get_metrics_result())
        self._results = tf.function(self._results_of_steps, autograph=False)
        self.restart()

    def restart(self) -> None:
        """Begin an epoch or a validation."""
        self._total: list[Any] = self._states.merged([])
        self._calls = 0

    def add(self, result: dict[str, Any]) -> list[dict[str, float]]:
        """Take a finished call and return the metrics after each of its steps."""
        states = [np.asarray(state) for state in result["states"]]
        parts = [self._calls, 1]
        merged = [
            self._states.merged([self._total, [state[step] for state in states]], parts)
            for step in range(len(result["staleness"]))
        ]
        self._total = merged[-1]
        self._calls += 1
        columns: dict[str, Any] = {}
        if states:  # a model may have no metrics
            columns = self._results([np.stack(values) for values in zip(*merged, strict=True)])
            columns = {name: np.asarray(values) for name, values in columns.items()}
        columns |= {name: np.asarray(values) for name, values in result["logs"].items()}
        return [
            {name: float(values[step]) for name, values in columns.items()}
            for step in range(len(next(iter(columns.values()))))
        ]

    def _results_of_steps(self, states: list[Any]) -> dict[str, Any]:
        def one(state: list[Any]) -> dict[str, Any]:
            scope = keras.StatelessScope()
            for variable, value in zip(self._states.variables, state, strict=True):
                scope.add_update((variable, value))
            with scope:
                found = self._model.get_metrics_result()
            return {name: tf.cast(value, tf.float32) for name, value in found.items()}

        signature = {name: tf.TensorSpec((), tf.float32) for name in self._names}
        found: dict[str, Any] = tf.map_fn(one, states, fn_output_signature=signature)
        return found


class Training:
    """The epochs of one fit."""

    def __init__(
        self,
        cluster: Cluster,
        model: Any,
        pieces: Sequence[Any],
        job: TrainJob,
        data: DatasetRef,
        config: ParameterServerConfig,
        events: LoopEvents,
    ) -> None:
        self._cluster = cluster
        self._pieces = {id(piece) for piece in pieces}
        self._model = model
        self._config = job.config
        self._events = events
        self._plan = ChunkPlan.of_job(job, data, "train", config.steps_per_call)
        self._validation: ChunkPlan | None = None
        if data.validation:
            self._validation = ChunkPlan.of_job(job, data, "validation", config.steps_per_call)
        builder = CallBuilder(
            model,
            cluster.strategy,
            job.columns,
            job.columns if job.config.transformation is None else job.columns.as_taken,
            job.config.batch_size,
            class_weigher(job.config.class_weight),
            self._apply,
        )
        self._counter = model.optimizer.iterations.value
        _leave_counting(model.optimizer)
        self._train_call = builder.train_call()
        self._test_call = builder.test_call() if self._validation is not None else None
        self._merger = Merger(model)
        callbacks = [Telling(events, tell_metrics=True)]
        callbacks += callbacks_of_rank(job.config.callbacks, 0)
        params = {"epochs": self._config.epochs, "steps": self._plan.steps_per_epoch, "verbose": 0}
        self._hooks = Hooks(callbacks, model, params)
        workers = len(cluster.workers)
        self._fetching = ThreadPoolExecutor(workers * (1 + _CALLS_AHEAD))
        self._epoch_seconds: list[float] = []
        self._redone = 0
        self._tally = Tally(workers)

    def _apply(self, gradients: list[Any], variables: list[Any]) -> None:
        """Update the servers; inside a step's graph."""
        optimizer = self._model.optimizer
        rate = optimizer.learning_rate
        dense: list[tuple[Any, Any]] = []
        for gradient, variable in zip(gradients, variables, strict=True):
            if id(variable) in self._pieces and isinstance(gradient, tf.IndexedSlices):
                update_rows(optimizer, variable, gradient, rate)
            else:
                dense.append((gradient, variable))
        if dense:
            optimizer.apply([g for g, _ in dense], [v for _, v in dense])
        # nothing else would keep the servers from counting before there is anything to count
        with tf.control_dependencies([tf.convert_to_tensor(_values(g)) for g in gradients]):
            self._counter.assign_add(tf.ones((), self._counter.dtype))

    def run(self, progress: Progress, url: str | None) -> dict[str, list[float]]:
        """Train the epochs that are left; returns the whole history."""
        history = progress.history
        self._model.stop_training = False
        self._hooks.call("on_train_begin", {})
        logs: dict[str, float] = {}
        for epoch in range(progress.epochs, self._config.epochs):
            logs = self._epoch(epoch)
            for name, value in logs.items():
                history.setdefault(name, []).append(value)
            if url is not None:
                save(url, self._model, Progress(epoch + 1, history))
            if self._model.stop_training:
                break
        self._hooks.call("on_train_end", logs)
        return history

    def _epoch(self, epoch: int) -> dict[str, float]:
        self._hooks.call("on_epoch_begin", epoch, {})
        began = time.monotonic()
        logs = self._train_epoch(epoch)
        self._epoch_seconds.append(time.monotonic() - began)
        if self._validation is not None:
            logs |= {f"val_{name}": value for name, value in self._validate(epoch).items()}
        self._hooks.call("on_epoch_end", epoch, logs)
        return logs

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        logs: dict[str, float] = {}
        self._merger.restart()
        rows = step = 0
        for chunk, result in self._calls(self._train_call, self._plan, epoch):
            rows += int(result["rows"])
            self._tally.add(result)
            after_steps = self._merger.add(result)
            self._check_finite(epoch, chunk, result, after_steps)
            for logs in after_steps:
                self._hooks.call("on_train_batch_begin", step, {})
                self._hooks.call("on_train_batch_end", step, logs)
                step += 1
        if rows != self._plan.total_rows and not self._model.stop_training:
            raise TrainingError(
                f"The workers read {rows} rows in epoch {epoch}, the data has "
                f"{self._plan.total_rows}."
            )
        return dict(logs)

    def _validate(self, epoch: int) -> dict[str, float]:
        assert self._validation is not None
        logs: dict[str, float] = {}
        self._merger.restart()
        self._hooks.call("on_test_begin", {})
        step = 0
        for _, result in self._calls(self._test_call, self._validation, epoch):
            for logs in self._merger.add(result):
                self._hooks.call("on_test_batch_begin", step, {})
                self._hooks.call("on_test_batch_end", step, logs)
                step += 1
        self._hooks.call("on_test_end", logs)
        return dict(logs)

    def _calls(
        self, function: Any, plan: ChunkPlan, epoch: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Have every chunk of an epoch done and give the results as they come.

        Only so many calls are scheduled that no worker waits for the next one: what
        has not begun can still be left out when a callback wants to stop.
        """
        workers = len(self._cluster.workers)
        order = plan.order(workers)
        waiting: dict[Future[Any], int] = {}
        position = 0
        while waiting or position < len(order):
            stop = function is self._train_call and self._model.stop_training
            while position < len(order) and len(waiting) < workers * (1 + _CALLS_AHEAD):
                if stop:
                    position = len(order)
                    break
                following = position + workers
                hint = order[following] if following < len(order) else NO_CHUNK
                chunk = order[position]
                argument = tf.constant([epoch, chunk, hint], tf.int64)
                value = self._cluster.coordinator.schedule(function, args=(argument,))
                waiting[self._fetching.submit(fetched, value)] = chunk
                position += 1
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda finished: waiting[finished]):
                chunk = waiting.pop(future)
                error = future.exception()
                if error is None:
                    yield chunk, future.result()
                elif is_lost_worker(error) and self._redone < _MOST_REDONE:
                    # finished, but its worker was killed before the result was fetched
                    self._redone += 1
                    order.append(chunk)
                else:
                    raise error

    def _check_finite(
        self, epoch: int, chunk: int, result: dict[str, Any], after: list[dict[str, float]]
    ) -> None:
        for offset, logs in enumerate(after):
            loss = logs.get("loss", 0.0)
            if math.isfinite(loss):
                continue
            worker = int(result["worker"])
            step = self._plan.first_step(chunk) + offset
            raise NonFiniteLoss(
                f"the loss became {loss} in epoch {epoch}, step {step}, computed by worker "
                f"{worker}. Lower the learning rate, scale the features, clip gradients "
                "(clipnorm), or look for rows that make the loss infinite.",
                worker,
                self._cluster.workers[worker],
            )

    def report(self) -> dict[str, Any]:
        """What the report of the fit says of this backend."""
        return {
            "rows_per_epoch": self._plan.total_rows,
            "steps_per_epoch": self._plan.steps_per_epoch,
            "steps_per_call": self._plan.steps_per_chunk,
            "epoch_seconds": self._epoch_seconds,
            "servers": len(self._cluster.servers),
            **self._tally.report(),
        }


def fetched(value: Any) -> Any:
    """The result of a scheduled call, or what it raised.

    A call that has run fails still if its result cannot be copied, and ``fetch`` gives None
    to who came just before it was known; asked again, it raises.
    """
    result = value.fetch()
    return value.fetch() if result is None else result


def _leave_counting(optimizer: Any) -> None:
    """Keras counts updates with a read and a write, which loses some of several workers."""
    optimizer.iterations.assign_add = lambda value: None


def _values(gradient: Any) -> Any:
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


class Tally:
    """Rows, seconds and staleness by worker."""

    def __init__(self, workers: int) -> None:
        self._rows = [0] * workers
        self._calls = [0] * workers
        self._reading_s = [0.0] * workers
        self._total_s = [0.0] * workers
        self._updates = 0
        self._staleness = 0
        self._most_stale = 0

    def add(self, result: dict[str, Any]) -> None:
        """Take a finished call."""
        worker = int(result["worker"])
        self._rows[worker] += int(result["rows"])
        self._calls[worker] += 1
        self._reading_s[worker] += float(result["reading_s"])
        self._total_s[worker] += float(result["total_s"])
        stale = np.asarray(result["staleness"])
        self._updates += len(stale)
        self._staleness += int(stale.sum())
        self._most_stale = max(self._most_stale, int(stale.max()))

    def report(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "rows_by_worker": self._rows,
            "calls_by_worker": self._calls,
            "reading_seconds": round(sum(self._reading_s), 3),
            "worker_seconds": {
                "reading": [round(value, 3) for value in self._reading_s],
                "steps": [
                    round(total - reading, 3)
                    for total, reading in zip(self._total_s, self._reading_s, strict=True)
                ],
            },
            "staleness": {
                "mean": round(self._staleness / max(self._updates, 1), 3),
                "max": self._most_stale,
            },
        }
