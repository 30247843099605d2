"""What MPI is to be started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spark_dlobd.backends.options import check_choices
from spark_dlobd.errors import ConfigurationError


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


def check_mpi(config: Any, transport: str) -> None:
    """Check the fields of a frozen config that MPI is started with.

    Parameters
    ----------
    config : dataclass
        Has ``ucx_tls``, ``ucx_net_devices`` and ``mpi_args``, which is stored as a tuple.
    transport : str
        Name of its field that says what carries the bytes.

    Raises
    ------
    ConfigurationError
        If a value does not fit, or an option of UCX comes without UCX.
    """
    object.__setattr__(config, "mpi_args", tuple(config.mpi_args))
    check_choices(config, {transport: (None, "tcp", "sm", "ucx")})
    chosen = getattr(config, transport)
    if chosen != "ucx" and (config.ucx_tls or config.ucx_net_devices):
        raise ConfigurationError(
            f"ucx_tls and ucx_net_devices need {transport}='ucx'. Got {transport}={chosen!r}."
        )


def mpi_options(config: Any, transport: str) -> MpiOptions:
    """The options of MPI in a config that `check_mpi` has checked."""
    return MpiOptions(
        getattr(config, transport),
        config.ucx_tls,
        config.ucx_net_devices,
        config.mpi_args,
        config.network_interface,
        config.start_timeout_s,
    )
