"""One worker's part in timing steps: a child process as a rank's. Runs on each worker."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from spark_dlobd.cost.step_events import Ready, Timed
from spark_dlobd.errors import DLError, TrainingTimeoutError, WorkerLostError
from spark_dlobd.processes.child import ChildEnded, ChildFailed, ChildProcess
from spark_dlobd.processes.environment import tensorflow_environment
from spark_dlobd.processes.events import Event, Phase
from spark_dlobd.processes.failure import Failure

if TYPE_CHECKING:
    from spark_dlobd.cost.ring import Ring

_MODULE = "spark_dlobd.cost.step_main"
Awaited = TypeVar("Awaited", bound=Event)


@dataclass(frozen=True)
class StepTask:
    """What every task needs.

    Attributes
    ----------
    payload : bytes
        The job and some rows, pickled; only the child process opens it.
    rows, full_rows : int
        Rows of a step of one worker among several, and of one that is alone.
    budget_s : float
        How long steps of one kind are timed.
    threads : int
        Of TensorFlow, as a rank has them.
    driver_host : str
        Decides the interface over which tasks meet.
    token : bytes
        Of this probe.
    timeout_s : float
        Longest wait for the child or another task.
    """

    payload: bytes
    rows: int
    full_rows: int
    budget_s: float
    threads: int
    driver_host: str
    token: bytes
    timeout_s: float

    def __repr__(self) -> str:
        """Leave payload and token out: this may end up in a log."""
        return f"StepTask(rows={self.rows}, full_rows={self.full_rows})"


def run_step_task(task: StepTask, _: Iterable[Any]) -> Iterator[bytes]:
    """Time steps and yield one JSON object: what was found, or what failed."""
    from pyspark import BarrierTaskContext

    from spark_dlobd.cost.ring import Ring

    context = BarrierTaskContext.get()
    resources = context.resources()
    gpus = list(resources["gpu"].addresses) if "gpu" in resources else None
    environment = tensorflow_environment(task.threads, gpus)
    lines: list[str] = []
    try:
        with ChildProcess(_MODULE, environment, lines.append) as process:
            process.send({"rows": task.rows}, task.payload)
            with Ring(context, task.driver_host, task.token, task.timeout_s) as ring:
                found = _timed(task, process, ring)
    except (OSError, DLError, ChildFailed) as error:
        # a task that raised would take the reason with it: Spark reports one of all tasks
        found = _failure(error, context.partitionId())
    yield json.dumps(found).encode()


def _timed(task: StepTask, process: ChildProcess, ring: Ring) -> dict[str, Any]:
    """All workers at once, then the first one alone."""
    found: dict[str, Any] = dict(vars(_answer(process, Ready, task.timeout_s)))
    ring.meet()
    together = _ask(task, process, task.rows)
    ring.meet()
    found |= {"rank": ring.rank, "local_size": ring.local_size, "seconds": together.seconds}
    found["memory_bytes"] = together.memory_bytes
    if ring.rank == 0:
        full = _ask(task, process, task.full_rows)
        alone = together if ring.size == 1 else _ask(task, process, task.rows)
        found |= {"alone_seconds": alone.seconds, "full_seconds": full.seconds}
        found["memory_bytes"] = max(full.memory_bytes, found["memory_bytes"])
    ring.meet()
    return found


def _ask(task: StepTask, process: ChildProcess, rows: int) -> Timed:
    process.send({"rows": rows, "budget_s": task.budget_s})
    return _answer(process, Timed, task.timeout_s)


def _answer(process: ChildProcess, kind: type[Awaited], timeout_s: float) -> Awaited:
    """Next event of a kind; `timeout_s` bounds the wait for it."""
    deadline = time.monotonic() + timeout_s
    phase = "start"
    while True:
        try:
            told = process.event(max(deadline - time.monotonic(), 0.01))
        except ChildEnded as ended:
            raise WorkerLostError(str(ended), 0, socket.gethostname(), phase) from ended
        if told is None:
            raise TrainingTimeoutError(
                f"The process that times steps told nothing for {timeout_s:g} s in phase '{phase}'."
            )
        event, _ = told
        if isinstance(event, kind):
            return event
        if isinstance(event, Phase):
            phase = event.text


def _failure(error: Exception, partition: int) -> dict[str, Any]:
    """What the driver is told of an error; what neighbours see of it comes last."""
    if isinstance(error, ChildFailed):
        failure = error.failure
    else:
        failure = Failure.of(error, "start", "peer" if isinstance(error, OSError) else None)
    return {"failure": failure.at(partition, socket.gethostname()).to_json()}
