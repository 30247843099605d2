"""Options of allreduce with TensorFlow's own collectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from spark_dlobd.backends.base import BackendConfig
from spark_dlobd.backends.options import check_numbers, check_ports
from spark_dlobd.errors import ConfigurationError

_AT_LEAST: dict[str, float] = {
    "gradient_accumulation_steps": 1,
    "threads_per_rank": 1,
    "start_timeout_s": 1,
    "progress_timeout_s": 1,
    "stall_timeout_s": 1,
    "operation_timeout_s": 1,
}
_COMPRESSIONS = (None, "fp16", "bf16")


@dataclass(frozen=True)
class CollectiveConfig(BackendConfig):
    """Options of ``backend="collective"``.

    Ranks average their gradients with TensorFlow's ring over gRPC, which needs nothing but
    TensorFlow. Its servers have no authentication and listen on all interfaces: see
    SECURITY.md.

    Attributes
    ----------
    network_interface : str or None
        Interface that carries gradients, e.g. ``"eth0"``; by default the one that leads to
        the driver.
    port_range : tuple of (int, int) or None
        First and last port that ranks may listen on, for a firewall. None lets the system
        choose.
    compression : {None, "fp16", "bf16"}
        Type of gradients on the wire, in which they are added too.
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
        Longest single collective operation, the wait for a slower rank included.
    environment : mapping of str to str
        Further environment variables of the ranks.

    Examples
    --------
    >>> CollectiveConfig(compression="bf16").compression
    'bf16'
    """

    backend_class: ClassVar[str] = "spark_dlobd.backends.collective.backend:CollectiveBackend"

    network_interface: str | None = None
    port_range: tuple[int, int] | None = None
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
        if self.compression not in _COMPRESSIONS:
            raise ConfigurationError(
                f"compression must be one of {', '.join(map(repr, _COMPRESSIONS))}. "
                f"Got {self.compression!r}."
            )
