"""Allreduce with Horovod over Gloo or MPI, inside one barrier stage."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from spark_dlobd.errors import ConfigurationError, MissingDependencyError, ResourceError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.backends.base import Backend
    from spark_dlobd.backends.channel import EventServer
    from spark_dlobd.backends.gang import GangFunction
    from spark_dlobd.data.dataset import DatasetRef
    from spark_dlobd.tracking.reporter import Reporter
    from spark_dlobd.training.job import TrainJob, TrainResult

_CHOICES: dict[str, tuple[Any, ...]] = {
    "controller": ("gloo", "mpi"),
    "transport": (None, "tcp", "sm", "ucx"),
    "compression": (None, "fp16", "bf16"),
}
_AT_LEAST: dict[str, float] = {
    "gradient_accumulation_steps": 1,
    "cycle_time_ms": 0.01,
    "start_timeout_s": 1,
    "progress_timeout_s": 1,
    "stall_timeout_s": 1,
    "gloo_timeout_s": 1,
}


@dataclass(frozen=True)
class HorovodConfig:
    """Options of ``backend="horovod"``.

    Attributes
    ----------
    controller : {"gloo", "mpi"}
        Who coordinates the ranks and carries the bytes. Gloo is TCP; MPI needs
        the MPI that Horovod was built against on every executor.
    network_interface : str or None
        Interface that carries gradients, e.g. ``"eth0"`` or ``"ib0"``; by default
        the one that leads to the driver.
    transport : {None, "tcp", "sm", "ucx"}
        For MPI: None leaves the choice to Open MPI, ``"sm"`` is shared memory and
        fits ranks of one host only.
    ucx_tls, ucx_net_devices : str or None
        ``UCX_TLS`` (e.g. ``"rc,sm,self"`` for RDMA, ``"tcp,self"``) and
        ``UCX_NET_DEVICES`` (e.g. ``"mlx5_0:1"``) for ``transport="ucx"``.
    mpi_args : tuple of str
        Further arguments of mpirun.
    compression : {None, "fp16", "bf16"}
        Type of gradients on the wire.
    gradient_accumulation_steps : int
        Steps summed on each rank before one allreduce and one update.
    fusion_threshold_bytes : int or None
        Gradients up to this size travel together; None is Horovod's 128 MiB.
    cycle_time_ms : float
        How often Horovod looks for gradients to send.
    timeline_path : str or None
        Chrome trace of the communication, written by rank 0 on its host.
    threads_per_rank : int or None
        TensorFlow threads; None is ``spark.task.cpus``.
    start_timeout_s : float
        Longest wait until all ranks have met, imports included.
    progress_timeout_s : float
        Longest silence of a rank in training.
    stall_timeout_s : float
        A collective that some ranks have not joined for this long ends the fit.
    gloo_timeout_s : float
        Longest single Gloo operation.
    environment : mapping of str to str
        Further environment variables of the ranks, e.g. ``NCCL_IB_HCA``.

    Examples
    --------
    >>> HorovodConfig(controller="mpi", transport="ucx", ucx_tls="tcp,self").controller
    'mpi'
    """

    controller: Literal["gloo", "mpi"] = "gloo"
    network_interface: str | None = None
    transport: Literal["tcp", "sm", "ucx"] | None = None
    ucx_tls: str | None = None
    ucx_net_devices: str | None = None
    mpi_args: tuple[str, ...] = ()
    compression: Literal["fp16", "bf16"] | None = None
    gradient_accumulation_steps: int = 1
    fusion_threshold_bytes: int | None = None
    cycle_time_ms: float = 1.0
    timeline_path: str | None = None
    threads_per_rank: int | None = None
    start_timeout_s: float = 120.0
    progress_timeout_s: float = 600.0
    stall_timeout_s: float = 120.0
    gloo_timeout_s: float = 120.0
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every option."""
        object.__setattr__(self, "mpi_args", tuple(self.mpi_args))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigurationError(
                    f"{name} must be one of {', '.join(map(repr, choices))}. "
                    f"Got {getattr(self, name)!r}."
                )
        for name, lowest in _AT_LEAST.items():
            if not getattr(self, name) >= lowest:
                raise ConfigurationError(
                    f"{name} must be at least {lowest:g}. Got {getattr(self, name)!r}."
                )
        if self.controller == "gloo" and (self.transport not in (None, "tcp") or self.mpi_args):
            raise ConfigurationError(
                f"controller='gloo' is TCP only. Got transport={self.transport!r}, mpi_args="
                f"{self.mpi_args!r}: use controller='mpi' for them."
            )
        if self.transport != "ucx" and (self.ucx_tls or self.ucx_net_devices):
            raise ConfigurationError(
                "ucx_tls and ucx_net_devices need transport='ucx'. "
                f"Got transport={self.transport!r}."
            )

    def create(self) -> Backend:
        """Return the backend."""
        return HorovodBackend(self)


class HorovodBackend:
    """One barrier stage, one child process per rank."""

    name: ClassVar[str] = "horovod"

    def __init__(self, config: HorovodConfig) -> None:
        self._config = config

    def check(self, spark: SparkSession, job: TrainJob) -> None:
        """Check that Horovod, MPI and slots are there."""
        from spark_dlobd.spark import require_slots

        if importlib.util.find_spec("horovod") is None:
            raise MissingDependencyError(
                "backend='horovod' needs the package horovod, which is not installed. PyPI has no "
                "wheel of it: python scripts/build_horovod_wheel.py builds and installs one in "
                "about five minutes. backend='local' needs nothing."
            )
        if self._config.controller == "mpi":
            from spark_dlobd.backends.mpi import find_mpirun

            find_mpirun()
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
        import cloudpickle

        from spark_dlobd.backends.barrier import GangTask, run_task
        from spark_dlobd.backends.gang import run_gang
        from spark_dlobd.report.traffic import allreduce_bytes, wire_bytes
        from spark_dlobd.spark import slots
        from spark_dlobd.training.job import TrainResult

        options = {
            "compression": self._config.compression,
            "accumulation": self._config.gradient_accumulation_steps,
        }
        payload = cloudpickle.dumps((job, data, options))
        cores = slots(spark).cores_per_task
        # a frozen mapping does not pickle everywhere, a dict does
        config = replace(self._config, environment=dict(self._config.environment))

        def make_task(server: EventServer) -> GangFunction:
            task = GangTask(job.run_id, server.address, payload, config, cores)
            return functools.partial(run_task, task)

        with reporter.phase("train"):
            gang = run_gang(
                spark,
                job.config.world_size,
                make_task,
                reporter,
                job.run_id,
                config.start_timeout_s,
            )
        report = {**gang.event["report"], "transport": self._transport(gang.log_lines)}
        payload_bytes = wire_bytes(
            report["trainable_weights"], report["gradient_bytes"], config.compression
        )
        report["bytes_sent_per_step"] = allreduce_bytes(
            payload_bytes, job.config.world_size, config.gradient_accumulation_steps
        )
        return TrainResult(gang.archive, gang.event["history"], report)

    def _transport(self, log_lines: list[str]) -> str:
        """What really ran, not what was asked for."""
        if self._config.controller == "gloo":
            return "gloo: tcp"
        from spark_dlobd.backends.mpi import transport_used

        return f"mpi: {transport_used(log_lines) or 'not told by Open MPI'}"
