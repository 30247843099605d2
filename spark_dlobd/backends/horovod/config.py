"""Options of allreduce with Horovod."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from spark_dlobd.backends.allreduce.mpi.options import MpiOptions, check_mpi, mpi_options
from spark_dlobd.backends.base import BackendConfig
from spark_dlobd.backends.options import check_choices, check_numbers
from spark_dlobd.errors import ConfigurationError

_CHOICES: dict[str, tuple[Any, ...]] = {
    "controller": ("gloo", "mpi"),
    "compression": (None, "fp16", "bf16"),
}
_AT_LEAST: dict[str, float] = {
    "gradient_accumulation_steps": 1,
    "cycle_time_ms": 0.01,
    "start_timeout_s": 1,
    "progress_timeout_s": 1,
    "stall_timeout_s": 1,
    "gloo_timeout_s": 1,
    "threads_per_rank": 1,
    "fusion_threshold_bytes": 0,
}


@dataclass(frozen=True)
class HorovodConfig(BackendConfig):
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
        Longest wait until all ranks have met, imports included. Ranks that are all ready and
        have not found each other after a quarter of it (20 seconds at least) are started once
        more, on other ports, with a warning in the report; then with all of it.
    progress_timeout_s : float
        Longest time in which a rank neither begins nor ends a step of training or validation,
        nor tells anything else.
    stall_timeout_s : float
        Longest time that one rank may keep others waiting. While another rank waits in an
        average of gradients or an exchange at the end of an epoch, each rank has to join it,
        or to begin or end a step of training or validation, within this time; a process that
        tells nothing at all has as long. Else the fit ends with a `WorkerStalledError`, which
        names the rank and what it did last. Steps in which TensorFlow compiles do not count
        (the first step, and the last one of the first epoch); `progress_timeout_s` bounds
        them. Ranks that are slow together wait for nobody. A callback that works on one rank
        alone, as `ModelCheckpoint` does, keeps the others waiting.
    gloo_timeout_s : float
        Longest single Gloo operation.
    environment : mapping of str to str
        Further environment variables of the ranks, e.g. ``NCCL_IB_HCA``.

    Examples
    --------
    >>> HorovodConfig(controller="mpi", transport="ucx", ucx_tls="tcp,self").controller
    'mpi'
    """

    backend_class: ClassVar[str] = "spark_dlobd.backends.horovod.backend:HorovodBackend"

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
        check_mpi(self, "transport")
        check_choices(self, _CHOICES)
        check_numbers(self, _AT_LEAST)
        if self.controller == "gloo" and (self.transport not in (None, "tcp") or self.mpi_args):
            raise ConfigurationError(
                f"controller='gloo' is TCP only. Got transport={self.transport!r}, mpi_args="
                f"{self.mpi_args!r}: use controller='mpi' for them."
            )

    @property
    def mpi_options(self) -> MpiOptions:
        """What MPI is to be started with."""
        return mpi_options(self, "transport")
