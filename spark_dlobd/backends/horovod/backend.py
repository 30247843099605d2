"""Allreduce with Horovod over Gloo or MPI, inside one barrier stage."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from spark_dlobd.backends.allreduce.backend import AllreduceBackend
from spark_dlobd.errors import MissingDependencyError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.backends.allreduce.task import RankTask
    from spark_dlobd.job.train_job import TrainJob


class HorovodBackend(AllreduceBackend):
    """Horovod's own fused allreduce."""

    name: ClassVar[str] = "horovod"
    program = "spark_dlobd.backends.horovod.rank_main"

    def check(self, spark: SparkSession, job: TrainJob) -> None:
        """Check that Horovod, MPI and slots are there."""
        if importlib.util.find_spec("horovod") is None:
            raise MissingDependencyError(
                "backend='horovod' needs the package horovod, which is not installed. PyPI has no "
                "wheel of it: `spark-dlobd build-horovod` builds and installs one in about "
                "five minutes. backend='local' needs nothing."
            )
        if self._config.controller == "mpi":
            from spark_dlobd.processes.mpirun import find_mpirun

            find_mpirun()
        super().check(spark, job)

    @property
    def rank_task(self) -> type[RankTask]:
        """What runs in a barrier task."""
        from spark_dlobd.backends.horovod.task import HorovodTask

        return HorovodTask

    def transport(self, log_lines: Sequence[str]) -> str:
        """What really ran, not what was asked for."""
        if self._config.controller == "gloo":
            return "gloo: tcp"
        from spark_dlobd.backends.allreduce.mpi.launch import transport_used

        return transport_used(log_lines)
