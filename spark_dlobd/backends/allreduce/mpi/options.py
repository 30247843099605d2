"""What MPI is to be started with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MpiOptions:
    """Transport and limits of MPI.

    Attributes
    ----------
    transport : {None, "tcp", "sm", "ucx"}
        None leaves the choice to Open MPI.
    ucx_tls, ucx_net_devices : str or None
        ``UCX_TLS`` and ``UCX_NET_DEVICES`` for ``"ucx"``.
    arguments : tuple of str
        Further arguments of mpirun.
    network_interface : str or None
        Interface that carries gradients.
    start_timeout_s : float
        Longest wait for a rank to be started.
    """

    transport: str | None = None
    ucx_tls: str | None = None
    ucx_net_devices: str | None = None
    arguments: tuple[str, ...] = ()
    network_interface: str | None = None
    start_timeout_s: float = 120.0
