"""The driver's model: what is cut how, and what the workers' state means between epochs.

Runs on the driver. Imported late: it imports TensorFlow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.backends.shuffle.slices.checkpoint import CheckpointStore
from spark_dlobd.backends.shuffle.slices.optimizer_state import join_states, split_state
from spark_dlobd.backends.shuffle.slices.plan import SlicePlan
from spark_dlobd.backends.shuffle.slices.rules import CutRule, cut_rule
from spark_dlobd.backends.shuffle.slices.variables import variable_specs
from spark_dlobd.backends.shuffle.stages.replica import Replica
from spark_dlobd.backends.shuffle.stages.task import StartPoint
from spark_dlobd.backends.shuffle.stages.worker import Assignment
from spark_dlobd.backends.shuffle.wire.messages import Message, numbered
from spark_dlobd.job.dataset import DatasetRef
from spark_dlobd.job.train_job import TrainJob
from spark_dlobd.training.metric_states import MetricStates
from spark_dlobd.training.state import mean_of, rank_seeds, seed_states, statistics

Position = tuple[int, int]


class Master:
    """A replica that knows the whole group.

    Parameters
    ----------
    job : TrainJob
        What to train.
    data : DatasetRef
        The materialized rows.
    averages : bool
        Whether workers average weights instead of gradients.

    Raises
    ------
    ConfigurationError
        If the optimizer cannot be cut into slices.
    ModelError
        If ``train_step`` does not apply the optimizer exactly once.
    """

    def __init__(self, job: TrainJob, data: DatasetRef, averages: bool) -> None:
        self._job = job
        self._averages = averages
        self._world = job.config.world_size
        self.replica = Replica(job, data, averages)
        self.model = self.replica.model
        variables = variable_specs(
            self.replica.vector, self.model.optimizer, self.replica.layout.untrained
        )
        self.rule: CutRule | None = None
        if not averages:
            network = job.network
            self.rule = cut_rule(
                network.compile_config["optimizer"], variables, network.custom_objects
            )
        self.slices = SlicePlan.of(
            [variable.size for variable in variables],
            self._world,
            whole_variables=self.rule is not None and self.rule.whole_variables,
        )
        self.assignment = Assignment(job, data, self.replica.layout, self.slices, variables)
        self._vector = self.replica.get_vector()

    @property
    def clipnorm(self) -> float | None:
        """Norm of the whole gradient that is clipped to."""
        return None if self.rule is None else self.rule.global_clipnorm

    @property
    def learning_rate(self) -> float | None:
        """What callbacks may have set; None with a schedule."""
        import keras

        optimizer = self.model.optimizer
        # a LossScaleOptimizer has that of the optimizer inside
        rate = getattr(optimizer, "inner_optimizer", optimizer)._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return None
        return float(optimizer.learning_rate)

    def write_first(self, store: CheckpointStore, error_feedback: bool) -> None:
        """Write the state before the first step."""
        where = (0, 0)
        self._write_weights(store, where)
        for index, state in enumerate(self._first_optimizer_states()):
            store.write(*where, "optimizer", index, _message(index, numbered("optimizer", state)))
        seeds = seed_states(self.model)
        self.model.reset_metrics()
        for rank in range(self._world):
            own = {
                id(variable): value
                for variable, value in zip(
                    seeds, rank_seeds(self.model, self._job.config.seed, rank), strict=True
                )
            }
            values = [np.asarray(own.get(id(v), v), dtype=v.dtype) for v in self.replica.carried]
            arrays = numbered("worker", values)
            if error_feedback:
                arrays["residual"] = np.zeros(self.slices.total, np.float32)
            store.write(*where, "worker", rank, _message(rank, arrays))

    def _first_optimizer_states(self) -> Sequence[list[NDArray[Any]]]:
        if self._averages:
            return [[] for _ in range(self._world)]
        return split_state(self.model.optimizer, self.slices, self.assignment.variables)

    def _write_weights(self, store: CheckpointStore, where: Position) -> None:
        for index, part in enumerate(self.slices.cut(self._vector)):
            # before the first step a callback may change weights that were just written
            store.write(*where, "weights", index, _message(index, {"values": part}), replace=True)

    def load(self, store: CheckpointStore, end: Position) -> None:
        """Take over weights, statistics and metrics of all workers at the end of an epoch.

        Statistics are averaged over workers, metrics become those of all rows.
        """
        parts = store.read_all(*end, "weights", self._world)
        self._vector = np.concatenate([part.arrays["values"] for part in parts])
        self.replica.set_vector(self._vector)
        self._workers = store.read_all(*end, "worker", self._world)
        averaged = {id(v) for v in statistics(self.model)}
        of_workers: dict[int, list[NDArray[Any]]] = {}
        for index, variable in enumerate(self.replica.carried):
            values = [worker.arrays[f"worker/{index}"] for worker in self._workers]
            of_workers[id(variable)] = values
            variable.assign(mean_of(values) if id(variable) in averaged else values[0])
        states = MetricStates(self.model.metrics)
        # a metric that no step writes is not carried: as here it is on every worker
        each = [
            of_workers.get(id(variable), [value] * self._world)
            for variable, value in zip(states.variables, states.read(), strict=True)
        ]
        states.assign(states.merged(list(zip(*each, strict=True)) or [()]))

    def metrics(self, last_logs: Sequence[dict[str, float]]) -> dict[str, float]:
        """Metrics over all rows, else the mean over workers of what the last step returned.

        Parameters
        ----------
        last_logs : sequence of dict
            What ``train_step`` returned on each worker in the last step.
        """
        found = {name: float(value) for name, value in self.model.get_metrics_result().items()}
        names = last_logs[0].keys() if last_logs else found.keys()
        if set(found) == set(names):
            return {name: found[name] for name in names}
        return {name: float(np.mean([logs[name] for logs in last_logs])) for name in names}

    def validation_metrics(self, workers: Sequence[Message]) -> dict[str, float]:
        """Metrics over all validation rows, named as Keras names them."""
        workers = [worker for worker in workers if worker.arrays]  # those that have rows
        states = MetricStates(self.model.metrics)
        states.assign(states.merged([worker.group("metrics") for worker in workers]))
        return {
            f"val_{name}": float(value) for name, value in self.model.get_metrics_result().items()
        }

    def write_worker_states(self, store: CheckpointStore, where: Position) -> None:
        """Write what workers carry into the next epoch: merged statistics, metrics of zero."""
        shared = {id(v) for v in statistics(self.model)}
        zeroed = {id(v) for v in self.model.metrics_variables}
        self.model.reset_metrics()
        for rank, worker in enumerate(self._workers):
            values = worker.group("worker")
            for index, variable in enumerate(self.replica.carried):
                if id(variable) in shared | zeroed:
                    values[index] = np.asarray(variable)
            arrays = numbered("worker", values)
            if "residual" in worker.arrays:
                arrays["residual"] = worker.arrays["residual"]
            store.write(*where, "worker", rank, _message(rank, arrays))

    def write_changed_weights(self, store: CheckpointStore, where: Position) -> bool:
        """Write the weights if a callback has changed them."""
        vector = self.replica.get_vector()
        if np.array_equal(vector, self._vector):
            return False
        self._vector = vector
        self._write_weights(store, where)
        return True

    def finish(self, store: CheckpointStore, start: StartPoint) -> None:
        """What Keras's fit does at the end: replace weights by their moving average, if asked."""
        if not self._averages:
            parts = store.read_all(*start.optimizer, "optimizer", self._world)
            states = [part.group("optimizer") for part in parts]
            join_states(self.slices, states, self.model.optimizer, self.assignment.variables)
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)

    def weights_hash(self) -> str:
        """SHA-256 of the weights, as the other backends report it."""
        digest = hashlib.sha256()
        for variable in self.model.weights:
            digest.update(np.ascontiguousarray(variable).tobytes())
        return digest.hexdigest()


def _message(index: int, arrays: dict[str, NDArray[Any]]) -> Message:
    return Message({"kind": "checkpoint", "source": index}, arrays)
