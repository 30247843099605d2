"""Options of allreduce with TensorFlow's own collectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from spark_dlobd.backends.allreduce.mpi.options import MpiOptions, check_mpi, mpi_options
from spark_dlobd.backends.base import BackendConfig
from spark_dlobd.backends.options import check_choices, check_numbers, check_ports
from spark_dlobd.errors import ConfigurationError

_AT_LEAST: dict[str, float] = {
    "gradient_accumulation_steps": 1,
    "threads_per_rank": 1,
    "start_timeout_s": 1,
    "progress_timeout_s": 1,
    "stall_timeout_s": 1,
    "operation_timeout_s": 1,
}
_CHOICES: dict[str, tuple[Any, ...]] = {
    "transport": (None, "mpi", "ring"),
    "compression": (None, "fp16", "bf16"),
    "nccl": (False, True),
}
_OF_MPI = ("mpi_transport", "ucx_tls", "ucx_net_devices", "mpi_args")
_OF_RING = ("port_range", "nccl")


@dataclass(frozen=True)
class CollectiveConfig(BackendConfig):
    """Options of ``backend="collective"``.

    Ranks average their gradients with MPI through mpi4py, for which pip has wheels, or with
    TensorFlow's ring over gRPC, which needs nothing but TensorFlow. The ring's servers have no
    authentication and listen on all interfaces: see SECURITY.md.

    Attributes
    ----------
    transport : {None, "mpi", "ring"}
        What carries the gradients. None is what the other options belong to; without any,
        MPI where the driver has mpi4py and ``mpirun`` (``pip install 'spark-dlobd[mpi]'``),
        else the ring. The report says which.
    mpi_transport : {None, "tcp", "sm", "ucx"}
        For MPI: None leaves the choice to Open MPI, ``"sm"`` is shared memory and fits ranks
        of one host only.
    ucx_tls, ucx_net_devices : str or None
        ``UCX_TLS`` (e.g. ``"rc,sm,self"`` for RDMA) and ``UCX_NET_DEVICES`` (e.g.
        ``"mlx5_0:1"``) for ``mpi_transport="ucx"``.
    mpi_args : tuple of str
        Further arguments of mpirun.
    network_interface : str or None
        Interface that carries gradients, e.g. ``"eth0"``; by default the one that leads to
        the driver.
    port_range : tuple of (int, int) or None
        Of the ring: first and last port that ranks may listen on, for a firewall. None lets
        the system choose.
    nccl : bool
        Of the ring: gradients stay on the GPUs and NCCL averages them there. Every rank needs
        a GPU of its own. Not run on GPUs yet.
    compression : {None, "fp16", "bf16"}
        Type of gradients on the wire; the ring adds them in it too, MPI adds float32.
    gradient_accumulation_steps : int
        Steps summed on each rank before one allreduce and one update.
    threads_per_rank : int or None
        TensorFlow threads; None is ``spark.task.cpus``.
    start_timeout_s : float
        Longest wait until all ranks have met, imports included. Ranks that are all ready and
        have not found each other after a quarter of it (20 seconds at least) are started once
        more, on other ports, with a warning in the report.
    progress_timeout_s : float
        Longest time in which a rank neither begins nor ends a step of training or validation,
        nor tells anything else.
    stall_timeout_s : float
        Longest time that one rank may keep others waiting, as in `HorovodConfig`.
    operation_timeout_s : float
        Of the ring: longest single operation, the wait for a slower rank included.
    environment : mapping of str to str
        Further environment variables of the ranks.

    Examples
    --------
    >>> CollectiveConfig(compression="bf16").compression
    'bf16'
    """

    backend_class: ClassVar[str] = "spark_dlobd.backends.collective.backend:CollectiveBackend"

    transport: Literal["mpi", "ring"] | None = None
    mpi_transport: Literal["tcp", "sm", "ucx"] | None = None
    ucx_tls: str | None = None
    ucx_net_devices: str | None = None
    mpi_args: tuple[str, ...] = ()
    network_interface: str | None = None
    port_range: tuple[int, int] | None = None
    nccl: bool = False
    compression: Literal["fp16", "bf16"] | None = None
    gradient_accumulation_steps: int = 1
    threads_per_rank: int | None = None
    start_timeout_s: float = 120.0
    progress_timeout_s: float = 600.0
    stall_timeout_s: float = 120.0
    operation_timeout_s: float = 600.0
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every option."""
        check_numbers(self, _AT_LEAST)
        object.__setattr__(self, "port_range", check_ports(self.port_range))
        check_choices(self, _CHOICES)
        object.__setattr__(self, "transport", self._asked_for())
        check_mpi(self, "mpi_transport")

    def _asked_for(self) -> str | None:
        """The transport, by its name or by an option that only it has."""
        given = {
            "mpi": [name for name in _OF_MPI if getattr(self, name)],
            "ring": [name for name in _OF_RING if getattr(self, name)],
        }
        asked = {self.transport} - {None} | {name for name, options in given.items() if options}
        if len(asked) > 1:
            raise ConfigurationError(
                f"{', '.join(_OF_MPI)} of CollectiveConfig belong to transport='mpi', "
                f"{' and '.join(_OF_RING)} to transport='ring'. Got "
                f"transport={self.transport!r} with {', '.join([*given['mpi'], *given['ring']])}: "
                "leave out what belongs to the other one."
            )
        return asked.pop() if asked else None

    @property
    def mpi_options(self) -> MpiOptions:
        """What MPI is to be started with."""
        return mpi_options(self, "mpi_transport")
