"""What runs in each barrier task of the parameter-server backend. Runs on each worker.

Task ``i`` starts worker ``i`` and its share of the servers; the first task also starts
the coordinator. The others stay until the first one closes the connection they hold to it.
"""

from __future__ import annotations

import json
import queue
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spark_dlobd.backends.barrier import RankFailed, tensorflow_environment
from spark_dlobd.backends.channel import ChannelAddress, EventClient, EventServer
from spark_dlobd.errors import (
    DLError,
    TrainingTimeoutError,
    WorkerLostError,
    WorkersDisagreeError,
)

if TYPE_CHECKING:
    from pyspark import BarrierTaskContext

    from spark_dlobd.backends.parameter_server.config import ParameterServerConfig
    from spark_dlobd.backends.process import RankProcess

_ARCHIVE_PIECE_BYTES = 32 << 20
_MODULE = "spark_dlobd.backends.parameter_server.role_main"
_POLL_S = 0.2
_CAUSE_WAIT_S = 1.0


@dataclass(frozen=True)
class ServerTask:
    """What every task needs.

    Attributes
    ----------
    run_id : str
        Names the gang.
    size : int
        Number of tasks.
    channel : ChannelAddress
        Where events go.
    payload : bytes
        Job, data and config for the coordinator, pickled; only child processes open it.
    small_payload : bytes
        The same without the model, for workers and servers.
    config : ParameterServerConfig
        Options of the backend.
    cores_per_task : int
        Threads of a worker and of a server.
    """

    run_id: str
    size: int
    channel: ChannelAddress
    payload: bytes
    small_payload: bytes
    config: ParameterServerConfig
    cores_per_task: int


def servers_of_task(task: int, size: int, num_ps: int) -> list[int]:
    """Indices of the servers that a task starts, from the last task down. Pure.

    Examples
    --------
    >>> [servers_of_task(task, size=2, num_ps=3) for task in (0, 1)]
    [[1], [0, 2]]
    """
    return [index for index in range(num_ps) if size - 1 - index % size == task]


def run_task(task: ServerTask, _: Iterable[Any]) -> Iterator[bytes]:
    """Run this task's processes until the training ends. Runs on each worker.

    Yields
    ------
    bytes
        The trained model in pieces, from the first task.
    """
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    with EventClient(task.channel, context.partitionId()) as driver:
        crew = Crew(task, context, driver)
        try:
            archive = crew.run()
        except Exception as error:
            driver.send(crew.failure(error))
            raise
    for start in range(0, len(archive), _ARCHIVE_PIECE_BYTES):
        yield archive[start : start + _ARCHIVE_PIECE_BYTES]


class Member:
    """One child process with its role; a worker may be started again."""

    def __init__(self, crew: Crew, role: str, index: int) -> None:
        self.role = role
        self.index = index
        self.port = 0
        self.restarts = 0
        self._crew = crew
        self._stack = ExitStack()
        self.process: RankProcess = self._start()

    @property
    def name(self) -> str:
        """What messages call it."""
        kinds = {"worker": "worker", "server": "parameter server"}
        return f"{kinds[self.role]} {self.index}" if self.role in kinds else self.role

    def _start(self) -> RankProcess:
        from spark_dlobd.backends.process import RankProcess

        # the name serves whoever looks at the host's processes
        named = {"SPARK_DLOBD_ROLE": f"{self.role} {self.index}"}
        environment = {**self._crew.environment(self.role), **named}
        process = self._stack.enter_context(RankProcess(_MODULE, environment, self._crew.log))
        header = {
            "kind": "job",
            "role": self.role,
            "index": self.index,
            "host": self._crew.address,
            "port": self.port,
        }
        task = self._crew.task
        process.send(header, task.payload if self.role == "coordinator" else task.small_payload)
        return process

    def start_again(self) -> None:
        """Replace a dead process by a new one on the same port."""
        self._stack.close()
        self.restarts += 1
        self.process = self._start()

    def close(self) -> None:
        """End the process at once: servers cannot be asked to leave."""
        self.process.kill()
        self._stack.close()

    def event(self, wait_s: float = 0.0) -> tuple[dict[str, Any], bytes] | None:
        """Next frame, or None if there is none within `wait_s`.

        Raises
        ------
        WorkerLostError, RankFailed
            If the process ended, or told that it failed.
        """
        try:
            frame = self.process.frames.get(block=wait_s > 0, timeout=wait_s)
        except queue.Empty:
            return None
        if frame is None:
            text = f"{self.name}: {self.process.exit_text()}"
            raise WorkerLostError(text, self._crew.rank, self._crew.host, self._crew.phase)
        if frame[0]["kind"] == "failed":
            raise RankFailed(frame[0])
        return frame


class Crew:
    """The child processes of one task."""

    def __init__(self, task: ServerTask, context: BarrierTaskContext, driver: EventClient) -> None:
        self.task = task
        self.rank = context.partitionId()
        self.phase = "start"
        self._context = context
        self._driver = driver
        self._members: list[Member] = []
        self.address = self._address()

    def _address(self) -> str:
        from spark_dlobd.backends.network import address_of

        interface = self.task.config.network_interface
        return self._driver.local_address if interface is None else address_of(interface)

    @property
    def host(self) -> str:
        """Name and address of this host."""
        return f"{socket.gethostname()} ({self.address})"

    def log(self, line: str) -> None:
        """Pass on what a process printed."""
        self._driver.send({"kind": "log", "text": line, "host": self.host})

    def environment(self, role: str) -> dict[str, str]:
        """Environment of a child: only workers get the task's GPUs."""
        config = self.task.config
        resources = self._context.resources()
        gpus = list(resources["gpu"].addresses) if "gpu" in resources else None
        threads = config.threads_per_process or self.task.cores_per_task
        return {
            **tensorflow_environment(threads, gpus if role == "worker" else []),
            # A step waits for tensors of other processes: with one thread it blocks them.
            "TF_NUM_INTEROP_THREADS": str(max(threads, 2 if role == "worker" else 4)),
            **dict(config.environment),
        }

    def run(self) -> bytes:
        """Run to the end; returns the model in the first task and nothing in the others."""
        self._driver.send({"kind": "placed", "placed": self.rank, "host": self.host})
        with ExitStack() as stack:
            roles = [("worker", self.rank)]
            roles += [
                ("server", index)
                for index in servers_of_task(self.rank, self.task.size, self.task.config.num_ps)
            ]
            if self.rank == 0:
                roles.append(("coordinator", 0))
            for role, index in roles:
                member = Member(self, role, index)
                stack.callback(member.close)
                self._members.append(member)
            self._wait_for_ports()
            if self.rank == 0:
                return self._lead(stack)
            self._follow(stack)
            return b""

    def _wait_for_ports(self) -> None:
        timeout_s = self.task.config.start_timeout_s
        deadline = time.monotonic() + timeout_s
        self._tell_phase("wait for ports")
        while waiting := [m for m in self._members if m.role != "coordinator" and not m.port]:
            for member in self._members:
                frame = member.event()
                if frame is not None and frame[0]["kind"] == "listening":
                    member.port = frame[0]["port"]
            if time.monotonic() > deadline:
                raise TrainingTimeoutError(
                    f"{', '.join(m.name for m in waiting)} on {self.host} did not start within "
                    f"start_timeout_s={timeout_s:g}. Is the host overloaded? Raise it in the "
                    "backend's config."
                )
            time.sleep(_POLL_S / 10)

    def _tell_phase(self, phase: str) -> None:
        self.phase = phase
        self._driver.send({"kind": "phase", "phase": phase})

    def _exchange(self, line: dict[str, Any]) -> list[dict[str, Any]]:
        """Meet the other tasks; returns what each announced, by task."""
        announced = {
            "versions": _versions(),
            "workers": {m.index: self._of(m) for m in self._members if m.role == "worker"},
            "servers": {m.index: self._of(m) for m in self._members if m.role == "server"},
            **line,
        }
        self._tell_phase("meet the other tasks")
        gathered = [json.loads(text) for text in self._context.allGather(json.dumps(announced))]
        _check_agreement([other["versions"] for other in gathered])
        return gathered

    def _of(self, member: Member) -> str:
        return f"{self.address}:{member.port}"

    def _lead(self, stack: ExitStack) -> bytes:
        """Run the coordinator; leaving the block tells the other tasks to leave."""
        line = stack.enter_context(EventServer(self.address, self.address))
        token = line.address.token.hex()
        gathered = self._exchange({"line": [line.address.host, line.address.port, token]})
        coordinator = self._members[-1]
        coordinator.process.send(
            {
                "kind": "cluster",
                "workers": _by_index(other["workers"] for other in gathered),
                "servers": _by_index(other["servers"] for other in gathered),
            }
        )
        self._listen(coordinator, "met", self.task.config.start_timeout_s)
        self._driver.send({"kind": "met"})
        header, archive = self._listen(coordinator, "result", self.task.config.progress_timeout_s)
        header["report"]["worker_restarts"] = self._restarts(line)
        self._driver.send(header)
        return archive

    def _restarts(self, line: EventServer) -> int:
        """Restarts of this task's worker and those the other tasks told."""
        told = sum(member.restarts for member in self._members)
        while not line.events.empty():
            told += line.events.get()["kind"] == "restarted"
        return told

    def _listen(
        self, coordinator: Member, until: str, timeout_s: float
    ) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                frame = coordinator.event(_POLL_S)
            except RankFailed as error:
                if error.header["cause"] == "peer":
                    self._wait_for_cause()
                raise
            self._look_after(self._members[:-1])
            if frame is None:
                if time.monotonic() > deadline:
                    setting = "start_timeout_s" if until == "met" else "progress_timeout_s"
                    raise TrainingTimeoutError(
                        f"The coordinator on {self.host} told nothing for {timeout_s:g} s in "
                        f"phase '{self.phase}': no worker finished a chunk. If that is normal for "
                        f"this model raise {setting} of the backend's config, or lower "
                        "steps_per_call."
                    )
                continue
            header, body = frame
            if header["kind"] == until:
                return header, body
            if header["kind"] == "phase":
                self.phase = header["phase"]
            if until != "met":
                deadline = time.monotonic() + timeout_s
            self._driver.send(header)

    def _wait_for_cause(self) -> None:
        """Raise the loss of a process of this task, if that is what the coordinator saw."""
        deadline = time.monotonic() + _CAUSE_WAIT_S
        while time.monotonic() < deadline:
            self._look_after(self._members[:-1])
            time.sleep(_POLL_S / 10)

    def _look_after(self, members: Iterable[Member]) -> bool:
        """Start a killed worker again; a lost server ends the gang."""
        restarted = False
        for member in members:
            try:
                member.event()
            except WorkerLostError as error:
                allowed = self.task.config.max_worker_restarts
                if member.role != "worker" or member.restarts >= allowed:
                    raise
                self.log(
                    f"{error.message} Started again ({member.restarts + 1} of at most {allowed})."
                )
                member.start_again()
                restarted = True
        return restarted

    def _follow(self, stack: ExitStack) -> None:
        """Keep this task's processes alive until the first task leaves."""
        host, port, token = self._exchange({})[0]["line"]
        address = ChannelAddress(host, port, bytes.fromhex(token))
        line = stack.enter_context(EventClient(address, self.rank))
        self._driver.send({"kind": "met"})
        self._tell_phase("serve")
        while not line.closed_by_peer(_POLL_S):
            if self._look_after(self._members):
                line.send({"kind": "restarted"})
        self._look_after(self._members)  # why the first task left, perhaps

    def failure(self, error: Exception) -> dict[str, Any]:
        """Describe an error of `run` for the driver."""
        described = {"kind": "failed", "failed": self.rank, "host": self.host}
        if isinstance(error, RankFailed):
            return {**described, **error.header}
        cause, message = "own", str(error)
        if isinstance(error, WorkerLostError):
            cause, message = "lost", error.message
        elif isinstance(error, TrainingTimeoutError | TimeoutError):
            cause = "timeout"
        elif not isinstance(error, DLError):
            cause = "peer"  # the other tasks or Spark went away
        return {
            **described,
            "cause": cause,
            "type": type(error).__name__,
            "message": message,
            "traceback": "",
            "phase": self.phase,
        }


def _by_index(parts: Iterable[dict[str, str]]) -> list[str]:
    joined = {int(index): address for part in parts for index, address in part.items()}
    return [joined[index] for index in sorted(joined)]


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    names = ("keras", "numpy", "petastorm", "pyarrow")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _check_agreement(versions: list[dict[str, str]]) -> None:
    for name in versions[0]:
        found = [task.get(name) for task in versions]
        if any(value != found[0] for value in found):
            raise WorkersDisagreeError(
                f"{name} differs between tasks: "
                + ", ".join(f"task {task} has {value}" for task, value in enumerate(found))
                + ". Give every executor the same environment."
            )
