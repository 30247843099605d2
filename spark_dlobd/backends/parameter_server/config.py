"""Options of the parameter-server backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from spark_dlobd.backends.base import BackendConfig
from spark_dlobd.backends.options import check_numbers, check_ports

_AT_LEAST: dict[str, float] = {
    "num_ps": 1,
    "min_partition_bytes": 0,
    "max_worker_restarts": 0,
    "max_restarts": 0,
    "start_timeout_s": 1,
    "progress_timeout_s": 1,
    "steps_per_call": 1,
    "threads_per_process": 1,
}


@dataclass(frozen=True)
class ParameterServerConfig(BackendConfig):
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

    backend_class: ClassVar[str] = (
        "spark_dlobd.backends.parameter_server.backend:ParameterServerBackend"
    )

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
        check_numbers(self, _AT_LEAST)
        object.__setattr__(self, "port_range", check_ports(self.port_range))
