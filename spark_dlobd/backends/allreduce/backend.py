"""One barrier stage, one child process per rank. Runs on the driver."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from spark_dlobd.errors import RanksNotConnectedError, ResourceError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.backends.allreduce.task import RankTask
    from spark_dlobd.backends.gang import GangFunction, GangResult
    from spark_dlobd.job.dataset import DatasetRef
    from spark_dlobd.job.train_job import TrainJob, TrainResult
    from spark_dlobd.processes.channel import EventServer
    from spark_dlobd.tracking.reporter import Reporter

_LEAST_CONNECT_S = 20.0


class AllreduceBackend:
    """Ranks that average their gradients after every step."""

    name: ClassVar[str]
    keeps_optimizer: ClassVar[bool] = True

    def __init__(self, config: Any) -> None:
        self._config = config

    @property
    def needed(self) -> tuple[str, ...]:
        """Distributions that every worker has to have, besides those of every backend."""
        return ()

    @property
    def program(self) -> str:
        """Module that a rank runs."""
        raise NotImplementedError

    @property
    def rank_task(self) -> type[RankTask]:
        """What runs in a barrier task."""
        raise NotImplementedError

    def transport(self, log_lines: Sequence[str]) -> str:
        """What really carried the gradients, not what was asked for."""
        raise NotImplementedError

    def check(self, spark: SparkSession, job: TrainJob) -> None:
        """Check that slots are there."""
        from spark_dlobd.spark import require_slots

        available = require_slots(spark, job.config.world_size)
        if 0 < available.gpus_per_task < 1:
            raise ResourceError(
                f"spark.task.resource.gpu.amount={available.gpus_per_task:g} shares a GPU between "
                "ranks. Give each task at least one whole GPU."
            )

    def fit(
        self, spark: SparkSession, job: TrainJob, data: DatasetRef, reporter: Reporter
    ) -> TrainResult:
        """Train on `numTrainWorkers` barrier tasks."""
        from spark_dlobd.job.train_job import TrainResult
        from spark_dlobd.report.traffic import allreduce_bytes, wire_bytes

        config = self._config
        make_task = self._task_maker(spark, job, data)
        with reporter.phase("train"):
            gang = self._run(spark, job, make_task, reporter)
        report = {**gang.told.report, "transport": self.transport(gang.log_lines)}
        payload_bytes = wire_bytes(
            report["trainable_weights"], report["gradient_bytes"], config.compression
        )
        report["bytes_sent_per_step"] = allreduce_bytes(
            payload_bytes, job.config.world_size, config.gradient_accumulation_steps
        )
        end = gang.told.archive_bytes
        return TrainResult(gang.archive[:end], gang.told.history, report, gang.archive[end:])

    def _task_maker(
        self, spark: SparkSession, job: TrainJob, data: DatasetRef
    ) -> Callable[[str, EventServer], GangFunction]:
        import cloudpickle

        from spark_dlobd.backends.allreduce.task import GangTask, run_task
        from spark_dlobd.processes.versions import driver_versions
        from spark_dlobd.spark import slots

        config = self._config.picklable()
        # a rank reads the second when TensorFlow is set up: what it holds may be Keras objects
        payload = cloudpickle.dumps((job.config.world_size, config)) + cloudpickle.dumps(
            (job, data)
        )
        cores = slots(spark).cores_per_task
        versions = driver_versions(data.reader, *self.needed)

        def make_task(run_id: str, server: EventServer) -> GangFunction:
            task = GangTask(run_id, server.address, payload, config, cores, versions, self.program)
            return functools.partial(run_task, self.rank_task, task)

        return make_task

    def _run(
        self,
        spark: SparkSession,
        job: TrainJob,
        make_task: Callable[[str, EventServer], GangFunction],
        reporter: Reporter,
    ) -> GangResult:
        """Run the gang; once more, on other ports, if its ranks could not connect.

        Nobody proves who he is on the ports of the ranks, so any program that connects to
        one of them, or has taken it, can spoil a start.
        """
        from spark_dlobd.backends.gang import run_gang

        def run(run_id: str, connect_timeout_s: float) -> GangResult:
            return run_gang(
                spark,
                job.config.world_size,
                functools.partial(make_task, run_id),
                reporter,
                run_id,
                self._config.start_timeout_s,
                self._config.stall_timeout_s,
                connect_timeout_s,
            )

        start_timeout_s = self._config.start_timeout_s
        try:
            return run(job.run_id, max(_LEAST_CONNECT_S, start_timeout_s / 4))
        except RanksNotConnectedError as error:
            reporter.warn(f"{error} Starting once more, on other ports.")
        # the first gang may still be leaving: its sockets and files have other names
        return run(f"{job.run_id}-2", start_timeout_s)
