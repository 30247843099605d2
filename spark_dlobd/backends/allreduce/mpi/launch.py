"""MPI through the barrier tasks: mpirun without ssh, ranks as the tasks' children.

``mpirun`` runs in the task of rank 0. On its own host it starts one placeholder
per rank; for every other host it would call ssh, and calls our launch agent
instead, which hands the daemon's command line to the task, which passes it on
over the tasks' common channel to a task of that host.
"""

from __future__ import annotations

import collections
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_dlobd.errors import TrainingError
from spark_dlobd.processes.guarded import GRACE_S
from spark_dlobd.processes.linux import end_process_group
from spark_dlobd.processes.mpirun import find_mpirun

if TYPE_CHECKING:
    from collections.abc import Callable

    from spark_dlobd.backends.allreduce.mpi.options import MpiOptions
    from spark_dlobd.processes.placement import Place

_PLACEHOLDER = Path(__file__).with_name("mpi_placeholder.py")
_AGENT = Path(__file__).with_name("mpi_agent.py")
_SHARED_MEMORY = Path("/dev/shm")
_HANDED_OVER = ("PMIX_", "PRTE_", "OMPI_", "OPAL_", "UCX_", "UCC_", "FI_", "NCCL_")


def transport_arguments(options: MpiOptions) -> list[str]:
    """Arguments of mpirun that select the transport. Pure.

    Without RDMA hardware Open MPI's UCX component refuses to open unless it is
    told that any transport and device will do.
    """
    arguments: list[str] = []
    interface = options.network_interface
    if options.transport == "ucx":
        arguments += ["--mca", "pml", "ucx"]
        if options.ucx_tls:
            arguments += ["-x", f"UCX_TLS={options.ucx_tls}"]
        if options.ucx_net_devices:
            arguments += ["-x", f"UCX_NET_DEVICES={options.ucx_net_devices}"]
        if not _uses_rdma(options.ucx_tls):
            arguments += ["--mca", "opal_common_ucx_tls", "any"]
            arguments += ["--mca", "opal_common_ucx_devices", "any"]
    elif options.transport in ("tcp", "sm"):
        arguments += ["--mca", "pml", "ob1", "--mca", "btl", f"self,{options.transport}"]
    if interface and options.transport != "ucx":
        arguments += ["--mca", "btl_tcp_if_include", interface]
    if interface and interface != "lo":
        arguments += ["--prtemca", "prte_if_include", interface]
    return [*arguments, *options.arguments]


def transport_used(log_lines: Sequence[str]) -> str:
    """Read off Open MPI's connection summary what carries the bytes. Pure.

    Examples
    --------
    >>> transport_used(["on-host:  all connections are sm", "off-host: all connections are n/a"])
    'mpi: on-host sm'
    """
    found = []
    for line in log_lines:
        if match := re.search(r"(on|off)-host:\s+all connections are (\S+)", line):
            found.append((match[1], match[2]))
    used = [f"{where}-host {what}" for where, what in found if what != "n/a"]
    return f"mpi: {', '.join(used) or 'not told by Open MPI'}"


def _uses_rdma(ucx_tls: str | None) -> bool:
    names = (ucx_tls or "").split(",")
    return any(name.startswith(("rc", "dc", "ud", "ib")) for name in names)


def mpirun_command(
    mpirun: str, places: Sequence[Place], options: MpiOptions, socket_prefix: str
) -> list[str]:
    """Whole command line of mpirun. Pure.

    Ranks are already grouped by host, so filling host after host gives each
    placeholder the rank of its task.
    """
    slots: dict[str, int] = {}
    for place in sorted(places, key=lambda place: place.rank):
        slots[place.host] = place.local_size
    command = [mpirun, "-np", str(len(places)), "--oversubscribe", "--bind-to", "none"]
    command += ["--mca", "ompi_display_comm", "mpi_init"]
    # a rank has as many cores as its steps use: it must not take one to wait in a loop
    if "mpi_yield_when_idle" not in options.arguments:
        command += ["--mca", "mpi_yield_when_idle", "1"]
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
    command += transport_arguments(options)
    tasks = sorted(range(len(places)), key=lambda task: places[task].rank)
    placeholder = [sys.executable, "-I", "-S", str(_PLACEHOLDER)]
    return [*command, *placeholder, socket_prefix, ",".join(map(str, tasks))]


class HandoverSocket:
    """Abstract Unix socket on which a task receives one JSON message per client.

    Only processes of the same user are heard.
    """

    def __init__(self, name: str) -> None:
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind("\0" + name)
        self._server.listen(64)
        self._connections: list[socket.socket] = []

    def receive(self, timeout_s: float, check: Callable[[], None] = lambda: None) -> Any:
        """Wait for one message; the connection stays open until `close`.

        Parameters
        ----------
        timeout_s : float
            Longest wait.
        check : callable
            Called while waiting; raises if there is nothing to wait for any more.

        Raises
        ------
        TimeoutError
            If none comes in time.
        """
        self._server.settimeout(0.2)
        deadline = time.monotonic() + timeout_s
        while True:
            check()
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"MPI did not start this rank within start_timeout_s={timeout_s:g}"
                )
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                continue
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


class HelperProcess:
    """mpirun or one of its daemons, a context manager.

    Parameters
    ----------
    command : sequence of str
        What to run.
    folder : Path
        Made for its files, and removed when it has ended.
    on_log : callable
        Receives each line that it prints.
    """

    def __init__(self, command: Sequence[str], folder: Path, on_log: Callable[[str], None]) -> None:
        self._command = command
        self._folder = folder
        self._on_log = on_log
        self._last_lines: collections.deque[str] = collections.deque(maxlen=15)

    def __enter__(self) -> HelperProcess:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "spark_dlobd.processes.guarded",
                str(os.getpid()),
                str(self._folder),
                *self._command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        self._thread = threading.Thread(target=self._forward, name="mpi-log", daemon=True)
        self._thread.start()
        return self

    def _forward(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip()
            self._last_lines.append(line)
            self._on_log(line)

    def check(self) -> None:
        """Raise `TrainingError` with what the process printed if it has ended."""
        code = self._process.poll()
        if code is None:
            return
        self._thread.join(timeout=2)
        printed = "\n".join(self._last_lines)
        raise TrainingError(
            f"{Path(self._command[0]).name} ended with exit code {code} before the ranks had met. "
            f"Check the transport and mpi_args of the backend's config. It printed:\n{printed}"
        )

    def __exit__(self, *_: object) -> None:
        end_process_group(self._process, grace_s=GRACE_S + 5.0)
        self._thread.join(timeout=2)


def daemon_command(shell_text: str) -> list[str]:
    """Turn what mpirun would send through ssh into a command that replaces its shell.

    Examples
    --------
    >>> daemon_command('A=1;export A;/opt/bin/prted --prtemca x "y;z"')[-1]
    'A=1;export A;exec /opt/bin/prted --prtemca x "y;z"'
    """
    return ["/bin/sh", "-c", re.sub(r"(^|;)\s*(\S*prted\s)", r"\1exec \2", shell_text, count=1)]


class MpiGang:
    """Part of one rank in starting MPI; a context manager. Runs on each worker.

    Made before the tasks meet, so that its socket is there when the first
    placeholder looks for it.

    Parameters
    ----------
    options : MpiOptions
        Transport and timeouts.
    prefix : str
        Name of this run's abstract sockets.
    task : int
        Partition of this task.
    on_log : callable
        Receives what mpirun and its daemons print.
    """

    def __init__(
        self, options: MpiOptions, prefix: str, task: int, on_log: Callable[[str], None]
    ) -> None:
        self._options = options
        self._prefix = prefix
        self._task = task
        self._on_log = on_log
        self._stack = ExitStack()
        self._own = self._stack.enter_context(HandoverSocket(f"{prefix}-{task}"))

    def __enter__(self) -> MpiGang:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def environment(
        self, places: Sequence[Place], gather: Callable[[str], list[str]]
    ) -> dict[str, str]:
        """Start MPI and return this rank's environment.

        Parameters
        ----------
        places : sequence of Place
            Of every task, by partition.
        gather : callable
            Tells all tasks a text of each; used only where the gang spans several hosts.
        """
        place = places[self._task]
        folder = self._folder([p.host for p in places].index(place.host))
        first_host = next(p.host for p in places if p.rank == 0)
        remote = {p.host for p in places} - {first_host}
        check = _nothing_to_check
        commands: dict[str, str] = {}
        if place.rank == 0:
            agent = self._stack.enter_context(HandoverSocket(f"{self._prefix}-agent"))
            command = mpirun_command(find_mpirun(), places, self._options, self._prefix)
            mpirun = HelperProcess(command, folder, self._on_log)
            check = self._stack.enter_context(mpirun).check
            for _ in remote:
                message = agent.receive(self._options.start_timeout_s, check)
                commands[message["host"]] = message["command"]
        if remote:
            gathered = [json.loads(text) for text in gather(json.dumps(commands))]
            commands = {host: text for part in gathered for host, text in part.items()}
            if place.local_rank == 0 and place.host in remote:
                daemon = daemon_command(commands[place.host])
                self._stack.enter_context(HelperProcess(daemon, folder, self._on_log))
        handed_over: dict[str, str] = self._own.receive(self._options.start_timeout_s, check)
        return {k: v for k, v in handed_over.items() if k.startswith(_HANDED_OVER)} | {
            # Open MPI itself removes shared memory only if neither rank nor daemon is killed
            "OMPI_MCA_btl_sm_backing_directory": str(folder),
        }

    def _folder(self, first_task: int) -> Path:
        """Where MPI has its files, shared memory among them, on the host of that task."""
        parent = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
        return parent / f"{self._prefix}-{first_task}"


def _nothing_to_check() -> None:
    """Wait without a process to watch."""
