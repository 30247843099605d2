"""Options of the parameter-server backend and the backend itself. Runs on the driver."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from spark_dlobd.errors import ConfigurationError, WorkerLostError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.backends.base import Backend
    from spark_dlobd.backends.channel import EventServer
    from spark_dlobd.backends.gang import GangFunction, GangResult
    from spark_dlobd.data.dataset import DatasetRef
    from spark_dlobd.tracking.reporter import Reporter
    from spark_dlobd.training.job import TrainJob, TrainResult

_AT_LEAST: dict[str, float] = {
    "num_ps": 1,
    "min_partition_bytes": 0,
    "max_worker_restarts": 0,
    "max_restarts": 0,
    "start_timeout_s": 1,
    "progress_timeout_s": 1,
}


@dataclass(frozen=True)
class ParameterServerConfig:
    """Options of ``backend="parameter_server"``.

    Every update uses ``batchSize`` rows of one worker, so the number of workers
    changes neither the number of updates nor their size; with several workers a
    gradient may be applied after others have changed the weights it was computed on.

    Attributes
    ----------
    num_ps : int
        Servers that hold the weights. They run beside the workers, in the same tasks.
    steps_per_call : int or None
        Updates that one scheduled call makes; its rows are the chunk that one worker
        takes. None chooses from the number of rows and workers. Large calls cost the
        coordinator less, small ones balance uneven workers better.
    min_partition_bytes : int
        Embedding tables from this size on are cut into one piece per server.
    network_interface : str or None
        Interface that carries weights and gradients, e.g. ``"eth0"`` or ``"ib0"``; by
        default the one that leads to the driver.
    port_range : tuple of (int, int) or None
        First and last port that workers, servers and the coordinator may listen on,
        for a firewall. None lets the system choose.
    threads_per_process : int or None
        TensorFlow threads of a worker and of a server; None is ``spark.task.cpus``.
    max_worker_restarts : int
        How often each worker's process is started again after it was killed. The
        others go on meanwhile, and its chunk is done again.
    max_restarts : int
        How often the fit starts again from the last finished epoch after a server,
        the coordinator or an executor was lost.
    start_timeout_s : float
        Longest wait until all processes have met, imports included.
    progress_timeout_s : float
        Longest time without any finished chunk.
    environment : mapping of str to str
        Further environment variables of all processes.

    Examples
    --------
    >>> ParameterServerConfig(num_ps=2, steps_per_call=8).num_ps
    2
    """

    num_ps: int = 1
    steps_per_call: int | None = None
    min_partition_bytes: int = 1 << 20
    network_interface: str | None = None
    port_range: tuple[int, int] | None = None
    threads_per_process: int | None = None
    max_worker_restarts: int = 3
    max_restarts: int = 0
    start_timeout_s: float = 120.0
    progress_timeout_s: float = 600.0
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every option."""
        for name, lowest in _AT_LEAST.items():
            if not getattr(self, name) >= lowest:
                raise ConfigurationError(
                    f"{name} must be at least {lowest:g}. Got {getattr(self, name)!r}."
                )
        for name in ("steps_per_call", "threads_per_process"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be None or at least 1. Got {value!r}.")
        if self.port_range is not None:
            object.__setattr__(self, "port_range", _checked_ports(self.port_range))

    def create(self) -> Backend:
        """Return the backend."""
        return ParameterServerBackend(self)


def _checked_ports(ports: Any) -> tuple[int, int]:
    try:
        first, last = (int(port) for port in ports)
    except (TypeError, ValueError):
        first, last = 0, 0
    if not 1024 <= first <= last <= 65535:
        raise ConfigurationError(
            "port_range must be None or (first, last) with 1024 <= first <= last <= 65535. "
            f"Got {ports!r}."
        )
    return first, last


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
        from spark_dlobd.spark import slots
        from spark_dlobd.training.job import TrainResult

        # a frozen mapping does not pickle everywhere, a dict does
        config = replace(self._config, environment=dict(self._config.environment))
        plan = ChunkPlan.of_job(job, data, "train", config.steps_per_call)
        reporter.expect(plan.steps_per_epoch)
        payload = cloudpickle.dumps((job, data, config))
        # workers and servers get the graph from the coordinator, not the model
        without_model = replace(job, model=replace(job.model, archive=b"", custom_objects={}))
        small = cloudpickle.dumps((without_model, data, config))
        cores = slots(spark).cores_per_task

        def make_task(server: EventServer) -> GangFunction:
            task = ServerTask(
                job.run_id, job.config.world_size, server.address, payload, small, config, cores
            )
            return functools.partial(run_task, task)

        with reporter.phase("train"):
            gang = self._run(spark, job, make_task, reporter)
        report = {**gang.event["report"], "transport": "grpc: tcp"}
        return TrainResult(gang.archive, gang.event["history"], report)

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
