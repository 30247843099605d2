"""Records of a stage: read at its start, addressed at its end. Runs on each worker."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator

from spark_dlobd.backends.shuffle.stages.task import ShuffleTask
from spark_dlobd.backends.shuffle.wire.messages import Message, pack, unpack
from spark_dlobd.errors import DLError
from spark_dlobd.processes.events import Event, Failed
from spark_dlobd.processes.failure import Cause, Failure, NonFiniteLoss
from spark_dlobd.processes.python_worker import speed_up_worker


class StateLostError(Exception):
    """The state of a slice is gone with its host."""


def received(records: Iterable[bytes]) -> list[Message]:
    """Messages in the order of their sources; the places' empty records left out.

    To be called first in a task: it takes Spark's delay of small records away.
    """
    speed_up_worker()
    return sorted((unpack(r) for r in records if r), key=lambda message: message.source)


def to(target: int, message: Message) -> Iterator[bytes]:
    """Address one message."""
    from pyspark.serializers import pack_long

    yield pack_long(target)
    yield pack(message)


def to_all(task: ShuffleTask, message: Message) -> Iterator[bytes]:
    """Send the same to every partition."""
    for target in range(task.world_size):
        yield from to(target, message)


def failure_among(messages: list[Message]) -> Message | None:
    """Return a failure to pass on: later stages of the job do nothing else."""
    return next((m for m in messages if m.header["kind"] == "failed"), None)


def failure(task: ShuffleTask, error: Exception, rank: int, phase: str) -> Message:
    """Make an error that a repeated task would meet again a message, and tell the driver.

    Raised, it would be tried four times by Spark and lose its type and its place.
    """
    import socket

    cause: Cause | None = "lost" if isinstance(error, StateLostError) else None
    if cause is None and not isinstance(error, DLError | NonFiniteLoss):
        cause = "user"  # there are no peers that it could come from
    failed = Failure.of(error, phase, cause).at(rank, socket.gethostname())
    tell(task, Failed(failed))
    return Message({"kind": "failed", "source": rank, "failure": failed.to_json()})


def tell(task: ShuffleTask, event: Event) -> None:
    """Send the driver an event when the task ends."""
    task.events.add([json.dumps(event.to_json())])


class Clock:
    """Seconds of consecutive phases."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a phase."""
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now
