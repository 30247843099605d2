"""The parameter-server backend. Runs on the driver."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from spark_dlobd.errors import WorkerLostError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.backends.gang import GangFunction, GangResult
    from spark_dlobd.backends.parameter_server.config import ParameterServerConfig
    from spark_dlobd.job.dataset import DatasetRef
    from spark_dlobd.job.train_job import TrainJob, TrainResult
    from spark_dlobd.processes.channel import EventServer
    from spark_dlobd.tracking.reporter import Reporter


class ParameterServerBackend:
    """One barrier stage; workers, servers and the coordinator are children of its tasks."""

    name: ClassVar[str] = "parameter_server"

    def __init__(self, config: ParameterServerConfig) -> None:
        self._config = config

    def check(self, spark: SparkSession, job: TrainJob) -> None:
        """Check that slots are there and that the job can be trained asynchronously."""
        from spark_dlobd.backends.parameter_server.checks import check_job
        from spark_dlobd.spark import require_slots

        require_slots(spark, job.config.world_size)
        check_job(job)

    def fit(
        self, spark: SparkSession, job: TrainJob, data: DatasetRef, reporter: Reporter
    ) -> TrainResult:
        """Train on `numTrainWorkers` barrier tasks."""
        import cloudpickle

        from spark_dlobd.backends.parameter_server.chunks import ChunkPlan
        from spark_dlobd.backends.parameter_server.task import ServerTask, run_task
        from spark_dlobd.job.train_job import TrainResult
        from spark_dlobd.processes.versions import driver_versions
        from spark_dlobd.spark import slots

        config = self._config.picklable()
        plan = ChunkPlan.of_job(job, data, "train", config.steps_per_call)
        reporter.expect(plan.steps_per_epoch)
        payload = cloudpickle.dumps((job, data, config))
        # workers and servers get the graph from the coordinator, not the model
        without_model = replace(job, network=replace(job.network, archive=b"", custom_objects={}))
        small = cloudpickle.dumps((without_model, data, config))
        cores = slots(spark).cores_per_task
        versions = driver_versions(data.reader)

        def make_task(server: EventServer) -> GangFunction:
            size = job.config.world_size
            task = ServerTask(
                job.run_id, size, server.address, payload, small, config, cores, versions
            )
            return functools.partial(run_task, task)

        with reporter.phase("train"):
            gang = self._run(spark, job, make_task, reporter)
        report = {**gang.told.report, "transport": "grpc: tcp"}
        return TrainResult(gang.archive, gang.told.history, report)

    def _run(
        self,
        spark: SparkSession,
        job: TrainJob,
        make_task: Callable[[EventServer], GangFunction],
        reporter: Reporter,
    ) -> GangResult:
        """Run the gang, again after a loss as often as `max_restarts` allows."""
        from spark_dlobd.backends.gang import run_gang

        size, start_timeout_s = job.config.world_size, self._config.start_timeout_s
        for left in range(self._config.max_restarts, -1, -1):
            try:
                return run_gang(spark, size, make_task, reporter, job.run_id, start_timeout_s)
            except WorkerLostError as error:
                if not left:
                    raise
                reporter.warn(
                    f"{error} Starting again from the last finished epoch ({left} of "
                    f"max_restarts={self._config.max_restarts} left)."
                )
        raise AssertionError("the last attempt returns or raises")
