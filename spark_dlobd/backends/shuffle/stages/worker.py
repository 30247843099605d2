"""What one of Spark's Python workers keeps from task to task. Runs on each worker."""

from __future__ import annotations

import gc
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spark_dlobd.backends.shuffle.stages.task import ShuffleTask
from spark_dlobd.job.dataset import DatasetRef
from spark_dlobd.job.train_job import TrainJob
from spark_dlobd.processes.python_worker import (
    exempt_from_collection,
    keep_memory,
    limit_tensorflow_threads,
)
from spark_dlobd.processes.versions import check_versions
from spark_dlobd.training.sampling import Sampler

if TYPE_CHECKING:
    from spark_dlobd.backends.shuffle.slices.optimizer import SliceOptimizer
    from spark_dlobd.backends.shuffle.slices.plan import SlicePlan
    from spark_dlobd.backends.shuffle.slices.variables import VariableSpec
    from spark_dlobd.backends.shuffle.stages.replica import Layout, Replica

_KEPT = 2
_tools: OrderedDict[str, Tools] = OrderedDict()


@dataclass(frozen=True)
class Assignment:
    """What all tasks of a fit share.

    Attributes
    ----------
    job : TrainJob
        What to train.
    data : DatasetRef
        The materialized rows.
    layout : Layout
        Which variables travel.
    slices : SlicePlan
        Where the flat vector is cut.
    variables : tuple of VariableSpec
        What the vector is made of.
    """

    job: TrainJob
    data: DatasetRef
    layout: Layout
    slices: SlicePlan
    variables: tuple[VariableSpec, ...]


class Tools:
    """Model and optimizers of one fit, built when first asked for."""

    def __init__(self, assignment: Assignment, updates_locally: bool) -> None:
        self.assignment = assignment
        self._updates_locally = updates_locally
        self._replica: Replica | None = None
        self._optimizers: dict[int, SliceOptimizer] = {}
        self._settled = 0
        self.sampler = Sampler().start()
        self.holds: dict[int, tuple[int, int]] = {}
        """Slice to the epoch and step before which its optimizer's state is the live one."""

    @property
    def slices(self) -> SlicePlan:
        """Where the flat vector is cut."""
        return self.assignment.slices

    @property
    def replica(self) -> Replica:
        """The model."""
        if self._replica is None:
            from spark_dlobd.backends.shuffle.stages.replica import Replica

            given = self.assignment
            self._replica = Replica(given.job, given.data, self._updates_locally, given.layout)
        return self._replica

    def optimizer(self, index: int) -> SliceOptimizer:
        """The optimizer of one slice."""
        if index not in self._optimizers:
            from spark_dlobd.backends.shuffle.slices.optimizer import SliceOptimizer

            network = self.assignment.job.network
            self._optimizers[index] = SliceOptimizer(
                network.compile_config["optimizer"],
                self.slices,
                index,
                self.assignment.variables,
                network.custom_objects,
            )
        return self._optimizers[index]

    def settle(self) -> None:
        """Exempt what was built by now from the garbage collection after every task.

        Spark's worker collects when a task is done. Looking through the traces of a model
        takes 15 ms, and they stay anyway.
        """
        built = len(self._optimizers) + (self._replica is not None)
        if built > self._settled:
            self._settled = built
            gc.collect()
            gc.freeze()

    def close(self) -> None:
        """End readers and sampler; give the memory of model and optimizers back."""
        self.sampler.stop()
        if self._replica is not None:
            self._replica.close()
        self._replica = None
        self._optimizers.clear()
        exempt_from_collection()


def tools_of(task: ShuffleTask) -> Tools:
    """Model and optimizers of a task's fit; a process keeps those of two fits."""
    known = _tools.get(task.run_id)
    if known is None:
        import cloudpickle

        check_versions(task.versions)
        keep_memory()
        limit_tensorflow_threads(task.cores)
        # Trusted: broadcast by the driver of this Spark application.
        known = _tools[task.run_id] = Tools(
            cloudpickle.loads(task.payload.value), task.sync_every > 1
        )
        while len(_tools) > _KEPT:
            _tools.popitem(last=False)[1].close()
    _tools.move_to_end(task.run_id)
    return known


def forget(run_id: str) -> None:
    """Let the model of a fit go."""
    tools = _tools.pop(run_id, None)
    if tools is not None:
        tools.close()
