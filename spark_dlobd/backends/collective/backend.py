"""Allreduce from pip alone: MPI through mpi4py, or TensorFlow's ring. Runs on the driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from spark_dlobd.backends.allreduce.backend import AllreduceBackend
from spark_dlobd.backends.allreduce.mpi.launch import transport_used
from spark_dlobd.errors import MissingDependencyError
from spark_dlobd.processes.mpirun import mpi_problem

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.backends.allreduce.task import RankTask
    from spark_dlobd.backends.collective.config import CollectiveConfig
    from spark_dlobd.job.train_job import TrainJob


class CollectiveBackend(AllreduceBackend):
    """MPI where it can start, else TensorFlow's ring over gRPC."""

    name: ClassVar[str] = "collective"
    program = "spark_dlobd.backends.collective.rank_main"

    def __init__(self, config: CollectiveConfig) -> None:
        chosen = config.transport or ("ring" if mpi_problem() else "mpi")
        super().__init__(replace(config, transport=chosen))

    @property
    def needed(self) -> tuple[str, ...]:
        """MPI's binding, where MPI carries the gradients."""
        return ("mpi4py",) if self._config.transport == "mpi" else ()

    def check(self, spark: SparkSession, job: TrainJob) -> None:
        """Check that MPI, if it was asked for, and slots are there."""
        if self._config.transport == "mpi" and (problem := mpi_problem()):
            raise MissingDependencyError(problem)
        super().check(spark, job)

    @property
    def rank_task(self) -> type[RankTask]:
        """What runs in a barrier task."""
        from spark_dlobd.backends.collective.task import CollectiveTask

        return CollectiveTask

    def transport(self, log_lines: Sequence[str]) -> str:
        """What carried the gradients."""
        if self._config.transport == "mpi":
            return transport_used(log_lines)
        return "ring: nccl" if self._config.nccl else "ring: grpc over tcp"
