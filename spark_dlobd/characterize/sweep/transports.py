"""How gradients can travel, by name: what a sweep calls a transport, as backend options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spark_dlobd.errors import ConfigurationError

__all__ = [
    "COMPRESSIONS",
    "Transport",
    "backend_options",
    "backends",
    "compressions_of",
    "get_transport",
    "transports_of",
]

COMPRESSIONS = ("none", "fp16", "bf16")


@dataclass(frozen=True)
class Transport:
    """One way for gradients to travel.

    Attributes
    ----------
    name : str
        Name in a sweep.
    backend : str
        The backend that has it.
    title : str
        Name in figures and tables.
    options : dict
        Options of the backend's config that select it.
    """

    name: str
    backend: str
    title: str
    options: dict[str, Any] = field(default_factory=dict)


_TRANSPORTS = {
    transport.name: transport
    for transport in (
        Transport("process", "local", "one process"),
        Transport("gloo", "horovod", "Gloo over TCP", {"controller": "gloo"}),
        Transport(
            "mpi-tcp", "horovod", "MPI over TCP", {"controller": "mpi", "transport": "tcp"}
        ),
        Transport(
            "mpi-sm", "horovod", "MPI, shared memory", {"controller": "mpi", "transport": "sm"}
        ),
        Transport(
            "ucx-tcp", "horovod", "UCX over TCP",
            {"controller": "mpi", "transport": "ucx", "ucx_tls": "tcp,self"},
        ),
        Transport(
            "ucx-sm", "horovod", "UCX, shared memory",
            {"controller": "mpi", "transport": "ucx", "ucx_tls": "sm,self"},
        ),
        Transport(
            "ucx-rdma", "horovod", "UCX over RDMA",
            {"controller": "mpi", "transport": "ucx", "ucx_tls": "rc,sm,self"},
        ),
        Transport("ring", "collective", "TensorFlow's ring", {"transport": "ring"}),
        Transport(
            "mpi4py-tcp", "collective", "mpi4py over TCP",
            {"transport": "mpi", "mpi_transport": "tcp"},
        ),
        Transport(
            "mpi4py-sm", "collective", "mpi4py, shared memory",
            {"transport": "mpi", "mpi_transport": "sm"},
        ),
        Transport("grpc", "parameter_server", "gRPC"),
        Transport("spark", "shuffle", "Spark shuffle"),
    )
}  # fmt: skip

# The option that sets the type of gradients on the wire, and its word for "none".
_COMPRESSION: dict[str, tuple[str, str | None]] = {
    "collective": ("compression", None),
    "horovod": ("compression", None),
    "shuffle": ("wire", "fp32"),
}
_WITHIN_ONE_HOST = ("process", "mpi-sm", "mpi4py-sm", "ucx-sm")


def backends() -> tuple[str, ...]:
    """Backends that a sweep can name."""
    return tuple(dict.fromkeys(transport.backend for transport in _TRANSPORTS.values()))


def transports_of(backend: str) -> tuple[str, ...]:
    """Names of a backend's transports; the first is what it takes by default."""
    return tuple(t.name for t in _TRANSPORTS.values() if t.backend == backend)


def compressions_of(backend: str) -> tuple[str, ...]:
    """What a backend can do to gradients before they travel."""
    return COMPRESSIONS if backend in _COMPRESSION else ("none",)


def crosses_hosts(transport: str) -> bool:
    """Whether a transport can connect workers of different hosts."""
    return transport not in _WITHIN_ONE_HOST


def get_transport(name: str) -> Transport:
    """Return a transport by name.

    Raises
    ------
    ConfigurationError
        If there is no such transport; the message lists the names.
    """
    if name not in _TRANSPORTS:
        raise ConfigurationError(
            f"transport must be one of {', '.join(map(repr, _TRANSPORTS))}. Got {name!r}."
        )
    return _TRANSPORTS[name]


def backend_options(transport: str, compression: str = "none") -> dict[str, Any]:
    """Return what `DLEstimator` takes as ``backend``: its name and options.

    Examples
    --------
    >>> backend_options("mpi-tcp", "bf16")["compression"]
    'bf16'
    >>> backend_options("spark")
    {'name': 'shuffle', 'wire': 'fp32'}
    """
    found = get_transport(transport)
    options: dict[str, Any] = {"name": found.backend, **found.options}
    if compression not in compressions_of(found.backend):
        raise ConfigurationError(
            f"compression of backend {found.backend!r} must be one of "
            f"{', '.join(map(repr, compressions_of(found.backend)))}. Got {compression!r}."
        )
    if found.backend in _COMPRESSION:
        name, nothing = _COMPRESSION[found.backend]
        options[name] = nothing if compression == "none" else compression
    return options
