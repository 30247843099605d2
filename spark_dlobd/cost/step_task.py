"""One worker's part in timing steps: a child process as a rank's. Runs on each worker."""

from __future__ import annotations

import json
import queue
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spark_dlobd.errors import DLError, TrainingTimeoutError, WorkerLostError

if TYPE_CHECKING:
    from spark_dlobd.backends.process import RankProcess
    from spark_dlobd.cost.ring import Ring

_MODULE = "spark_dlobd.cost.step_main"


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

    from spark_dlobd.backends.barrier import tensorflow_environment
    from spark_dlobd.backends.process import RankProcess
    from spark_dlobd.cost.ring import Ring

    context = BarrierTaskContext.get()
    resources = context.resources()
    gpus = list(resources["gpu"].addresses) if "gpu" in resources else None
    environment = tensorflow_environment(task.threads, gpus)
    lines: list[str] = []
    try:
        with RankProcess(_MODULE, environment, lines.append) as process:
            process.send({"kind": "job", "rows": task.rows}, task.payload)
            with Ring(context, task.driver_host, task.token, task.timeout_s) as ring:
                found = _timed(task, process, ring)
    except (OSError, DLError, _ChildFailed) as error:
        # a task that raised would take the reason with it: Spark reports one of all tasks
        found = _failure(error, context.partitionId())
    yield json.dumps(found).encode()


def _timed(task: StepTask, process: RankProcess, ring: Ring) -> dict[str, Any]:
    """All workers at once, then the first one alone."""
    found = dict(_answer(process, "ready", task.timeout_s))
    ring.meet()
    together = _ask(task, process, task.rows)
    ring.meet()
    found |= {"rank": ring.rank, "local_size": ring.local_size, "seconds": together["seconds"]}
    found["memory_bytes"] = together["memory_bytes"]
    if ring.rank == 0:
        full = _ask(task, process, task.full_rows)
        alone = together if ring.size == 1 else _ask(task, process, task.rows)
        found |= {"alone_seconds": alone["seconds"], "full_seconds": full["seconds"]}
        found["memory_bytes"] = max(full["memory_bytes"], found["memory_bytes"])
    ring.meet()
    return found


def _ask(task: StepTask, process: RankProcess, rows: int) -> dict[str, Any]:
    process.send({"kind": "time", "rows": rows, "budget_s": task.budget_s})
    return _answer(process, "timed", task.timeout_s)


def _answer(process: RankProcess, kind: str, timeout_s: float) -> dict[str, Any]:
    """Next event of a kind; `timeout_s` bounds the wait for it."""
    deadline = time.monotonic() + timeout_s
    phase = "start"
    while True:
        try:
            frame = process.frames.get(timeout=max(deadline - time.monotonic(), 0.01))
        except queue.Empty:
            raise TrainingTimeoutError(
                f"The process that times steps told nothing for {timeout_s:g} s in phase '{phase}'."
            ) from None
        if frame is None:
            raise WorkerLostError(process.exit_text(), 0, socket.gethostname(), phase)
        header, _ = frame
        if header["kind"] == "failed":
            raise _ChildFailed(header)
        if header["kind"] == kind:
            return header
        phase = header.get("phase", phase)


class _ChildFailed(Exception):
    """The child process reported an exception."""

    def __init__(self, header: dict[str, Any]) -> None:
        super().__init__(f"{header['type']}: {header['message']}")
        self.header = header


def _failure(error: Exception, partition: int) -> dict[str, Any]:
    """Describe an error for the driver; what neighbours see of it comes last."""
    told = error.header if isinstance(error, _ChildFailed) else {}
    return {
        "failed": str(error),
        "of_neighbour": isinstance(error, OSError),
        "partition": partition,
        "host": socket.gethostname(),
        "phase": told.get("phase", getattr(error, "phase", "probe steps")),
        "traceback": told.get("traceback", ""),
    }
