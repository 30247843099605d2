"""What runs in each barrier task of the parameter-server backend. Runs on each worker.

Task ``i`` starts worker ``i`` and its share of the servers; the first task also starts
the coordinator. The others stay until the first one closes the connection they hold to it.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from spark_dlobd.backends.parameter_server.events import Listening, Restarted
from spark_dlobd.errors import TrainingTimeoutError, WorkerLostError
from spark_dlobd.processes.channel import ChannelAddress, EventClient, EventServer
from spark_dlobd.processes.child import ChildFailed, ChildProcess
from spark_dlobd.processes.environment import tensorflow_environment
from spark_dlobd.processes.events import Met, Result
from spark_dlobd.processes.supervision import Supervisor
from spark_dlobd.processes.versions import ALIKE, check_agreement, check_versions, versions

if TYPE_CHECKING:
    from pyspark import BarrierTaskContext

    from spark_dlobd.backends.parameter_server.config import ParameterServerConfig
    from spark_dlobd.processes.events import Event

_POLL_S = 0.2
Until = TypeVar("Until", Met, Result)
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
    versions : dict of str to str
        What the driver has, as `driver_versions` says.
    program : str
        Module that plays a role.
    """

    run_id: str
    size: int
    channel: ChannelAddress
    payload: bytes
    small_payload: bytes
    config: ParameterServerConfig
    cores_per_task: int
    versions: dict[str, str]
    program: str = "spark_dlobd.backends.parameter_server.role_main"


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
        yield from crew.supervisor.run(crew.run)


class Member:
    """One child process with its role; a worker may be started again."""

    def __init__(self, crew: Crew, role: str, index: int) -> None:
        self.role = role
        self.index = index
        self.port = 0
        self.restarts = 0
        self._crew = crew
        self._stack = ExitStack()
        self.process: ChildProcess = self._start()

    @property
    def name(self) -> str:
        """What messages call it."""
        kinds = {"worker": "worker", "server": "parameter server"}
        return f"{kinds[self.role]} {self.index}" if self.role in kinds else self.role

    def _start(self) -> ChildProcess:
        crew, title = self._crew, f"{self.role} {self.index}"
        environment = crew.environment(self.role)
        process = self._stack.enter_context(
            ChildProcess(crew.task.program, environment, crew.supervisor.log, title)
        )
        header = {
            "role": self.role,
            "index": self.index,
            "host": crew.supervisor.address,
            "port": self.port,
        }
        coordinates = self.role == "coordinator"
        process.send(header, crew.task.payload if coordinates else crew.task.small_payload)
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

    def event(self) -> Event | None:
        """Next event, if there is one.

        Raises
        ------
        WorkerLostError, ChildFailed
            If the process ended, or told that it failed.
        """
        told = self._crew.supervisor.event(self.process, self.name, wait_s=0)
        return None if told is None else told[0]


class Crew:
    """The child processes of one task."""

    def __init__(self, task: ServerTask, context: BarrierTaskContext, driver: EventClient) -> None:
        from spark_dlobd.processes.network import address_of

        self.task = task
        hint = ", or lower steps_per_call: no worker finished a chunk meanwhile"
        self.supervisor = Supervisor(driver, context.partitionId(), task.config, hint)
        if (interface := task.config.network_interface) is not None:
            self.supervisor.address = address_of(interface)
        self._context = context
        self._members: list[Member] = []

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
        rank, task = self.supervisor.rank, self.task
        self.supervisor.place(rank)
        check_versions(task.versions)
        with ExitStack() as stack:
            servers = servers_of_task(rank, task.size, task.config.num_ps)
            roles = [("worker", rank), *(("server", index) for index in servers)]
            if rank == 0:
                roles.append(("coordinator", 0))
            for role, index in roles:
                member = Member(self, role, index)
                stack.callback(member.close)
                self._members.append(member)
            self._wait_for_ports()
            if rank == 0:
                return self._lead(stack)
            self._follow(stack)
            return b""

    def _wait_for_ports(self) -> None:
        timeout_s = self.task.config.start_timeout_s
        deadline = time.monotonic() + timeout_s
        self.supervisor.enter("wait for ports")
        while waiting := [m for m in self._members if m.role != "coordinator" and not m.port]:
            for member in self._members:
                event = member.event()
                if isinstance(event, Listening):
                    member.port = event.port
            if time.monotonic() > deadline:
                names = ", ".join(member.name for member in waiting)
                raise TrainingTimeoutError(
                    f"{names} on {self.supervisor.host} did not start within "
                    f"start_timeout_s={timeout_s:g}. Is the host overloaded? Raise it in the "
                    "backend's config."
                )
            time.sleep(_POLL_S / 10)

    def _exchange(self, line: dict[str, Any]) -> list[dict[str, Any]]:
        """Meet the other tasks; returns what each announced, by task."""
        announced = {
            "versions": versions(ALIKE),
            "workers": {m.index: self._of(m) for m in self._members if m.role == "worker"},
            "servers": {m.index: self._of(m) for m in self._members if m.role == "server"},
            **line,
        }
        self.supervisor.enter("meet the other tasks")
        timeout_s = self.task.config.start_timeout_s
        told = self.supervisor.driver.gather(json.dumps(announced), timeout_s)
        gathered = [json.loads(text) for text in told]
        check_agreement([other["versions"] for other in gathered], "task")
        return gathered

    def _of(self, member: Member) -> str:
        return f"{self.supervisor.address}:{member.port}"

    def _lead(self, stack: ExitStack) -> bytes:
        """Run the coordinator; leaving the block tells the other tasks to leave."""
        address = self.supervisor.address
        line = stack.enter_context(EventServer(address, address, clients=self.task.size))
        token = line.address.token.hex()
        gathered = self._exchange({"line": [line.address.host, line.address.port, token]})
        coordinator = self._members[-1]
        coordinator.process.send(
            {
                "workers": _by_index(other["workers"] for other in gathered),
                "servers": _by_index(other["servers"] for other in gathered),
            }
        )
        self._listen(coordinator, Met)
        self.supervisor.driver.tell(Met())
        result, archive = self._listen(coordinator, Result)
        report = {**result.report, "worker_restarts": self._restarts(line)}
        self.supervisor.driver.tell(replace(result, report=report))
        return archive

    def _restarts(self, line: EventServer) -> int:
        """Restarts of this task's worker and those the other tasks told."""
        told = sum(member.restarts for member in self._members)
        while not line.events.empty():
            told += isinstance(line.events.get()[1], Restarted)
        return told

    def _listen(self, coordinator: Member, until: type[Until]) -> tuple[Until, bytes]:
        look_after = functools.partial(self._look_after, self._members[:-1])
        try:
            return self.supervisor.listen(coordinator.process, "the coordinator", until, look_after)
        except ChildFailed as error:
            if error.failure.cause == "peer":
                self._wait_for_cause()
            raise

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
                self.supervisor.log(
                    f"{error.message} Started again ({member.restarts + 1} of at most {allowed})."
                )
                member.start_again()
                restarted = True
        return restarted

    def _follow(self, stack: ExitStack) -> None:
        """Keep this task's processes alive until the first task leaves."""
        host, port, token = self._exchange({})[0]["line"]
        address = ChannelAddress(host, port, bytes.fromhex(token))
        line = stack.enter_context(EventClient(address, self.supervisor.rank))
        self.supervisor.driver.tell(Met())
        self.supervisor.enter("serve")
        while not line.closed_by_peer(_POLL_S):
            if self._look_after(self._members):
                line.tell(Restarted())
        self._look_after(self._members)  # why the first task left, perhaps


def _by_index(parts: Iterable[dict[str, str]]) -> list[str]:
    joined = {int(index): address for part in parts for index, address in part.items()}
    return [joined[index] for index in sorted(joined)]
