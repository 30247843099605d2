"""A barrier task of a gang: listens to its child processes, tells the driver.

Runs on each worker.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from spark_dlobd.errors import TrainingTimeoutError, WorkerLostError
from spark_dlobd.processes.child import ChildEnded, ChildFailed, ChildProcess
from spark_dlobd.processes.events import (
    Attended,
    Event,
    Failed,
    Met,
    Phase,
    Placed,
    Printed,
    Stacks,
)
from spark_dlobd.processes.failure import Cause, Failure

if TYPE_CHECKING:
    from spark_dlobd.processes.channel import EventClient

_CHUNK_BYTES = 32 << 20
_LOOK_S = 0.2

Until = TypeVar("Until", bound=Event)


class Limits(Protocol):
    """Seconds of silence that a backend's config allows."""

    @property
    def start_timeout_s(self) -> float:
        """Until all have met."""
        ...

    @property
    def progress_timeout_s(self) -> float:
        """From one sign of progress to the next."""
        ...


class Supervisor:
    """What a task does with its children, whatever they compute.

    Parameters
    ----------
    driver : EventClient
        Where events go.
    rank : int
        Who this is, until `place` says otherwise.
    limits : Limits
        Of the backend's config.
    hint : str, default ""
        What else helps when a child is silent for too long.
    stacks_after_s : float, optional
        A child that has come no further for so long is asked what its threads do.
    """

    def __init__(
        self,
        driver: EventClient,
        rank: int,
        limits: Limits,
        hint: str = "",
        stacks_after_s: float | None = None,
    ) -> None:
        self.driver = driver
        self.rank = rank
        self._limits = limits
        self.address = driver.local_address
        self.phase = "start"
        self._hint = hint
        self._stacks_after_s = stacks_after_s
        self._marks: int | None = None

    @property
    def host(self) -> str:
        """Name and address of this host."""
        return f"{socket.gethostname()} ({self.address})"

    def place(self, rank: int) -> None:
        """Be a rank from now on."""
        self.rank = rank
        self.driver.tell(Placed(rank, self.host))

    def enter(self, phase: str) -> None:
        """Begin something."""
        self.phase = phase
        self.driver.tell(Phase(phase))

    def log(self, line: str) -> None:
        """Pass on what a process printed."""
        self.driver.tell(Printed(self.host, line))

    def event(self, child: ChildProcess, name: str, wait_s: float) -> tuple[Event, bytes] | None:
        """Next event of a child; None if there is none within `wait_s`.

        Raises
        ------
        WorkerLostError
            If it has ended; `name` says what it was.
        ChildFailed
            If it told that it failed.
        """
        try:
            return child.event(wait_s)
        except ChildEnded as ended:
            text = f"{name}: {ended}" if name else str(ended)
            raise WorkerLostError(text, self.rank, self.host, self.phase) from ended

    def listen(
        self,
        child: ChildProcess,
        name: str,
        until: type[Until],
        meanwhile: Callable[[], object] = lambda: None,
    ) -> tuple[Until, bytes]:
        """Pass a child's events on to the driver until one of a kind, which is returned.

        Parameters
        ----------
        child : ChildProcess
            Which.
        name : str
            What messages call it.
        until : type
            The kind. `Met` has to come within ``start_timeout_s``; later every progress
            begins another ``progress_timeout_s``.
        meanwhile : callable, optional
            Called after each event, and several times a second.
        """
        setting = "start_timeout_s" if until is Met else "progress_timeout_s"
        timeout_s: float = getattr(self._limits, setting)
        deadline = time.monotonic() + timeout_s
        ask_at = self._ask_at()
        while True:
            left = deadline - time.monotonic()
            told = self.event(child, name, min(max(left, 0.01), _LOOK_S))
            meanwhile()
            if until is not Met and time.monotonic() > ask_at:
                ask_at = math.inf
                self.driver.tell(Stacks(child.stacks()))
            if told is None:
                if time.monotonic() > deadline:
                    text = self._silent(name, timeout_s, setting)
                    raise TrainingTimeoutError(f"{text} Its Python stacks:\n{child.stacks()}")
                continue
            event, body = told
            if isinstance(event, until):
                return event, body
            if isinstance(event, Phase):
                self.phase = event.text
            if until is not Met and self._is_progress(event):
                deadline = time.monotonic() + timeout_s
                ask_at = self._ask_at()
            self.driver.tell(event)

    def _ask_at(self) -> float:
        after_s = math.inf if self._stacks_after_s is None else self._stacks_after_s
        return time.monotonic() + after_s

    def _silent(self, name: str, timeout_s: float, setting: str) -> str:
        who = name or f"rank {self.rank}"
        return (
            f"{who[0].upper()}{who[1:]} on {self.host} told nothing for {timeout_s:g} s in phase "
            f"'{self.phase}'. If that is normal for this model raise {setting} of the backend's "
            f"config{self._hint}."
        )

    def _is_progress(self, event: Event) -> bool:
        """Whether the child did more than to tell that it is there."""
        if not isinstance(event, Attended):
            return True
        before, self._marks = self._marks, event.marks
        return before != self._marks

    def failure(self, error: Exception) -> Failure:
        """What ended this task, for the driver."""
        if isinstance(error, ChildFailed):
            return error.failure.at(self.rank, self.host)
        message = error.message if isinstance(error, WorkerLostError) else str(error)
        kind = type(error).__name__
        return Failure(_cause_of(error), kind, message, self.phase, rank=self.rank, host=self.host)

    def run(self, train: Callable[[], bytes]) -> Iterator[bytes]:
        """Do the task's work; what it returns is yielded in pieces, an error is told."""
        try:
            archive = train()
        except Exception as error:
            self.driver.tell(Failed(self.failure(error)))
            raise
        for start in range(0, len(archive), _CHUNK_BYTES):
            yield archive[start : start + _CHUNK_BYTES]


def _cause_of(error: Exception) -> Cause:
    if isinstance(error, WorkerLostError):
        ended = error.__cause__
        # MPI ends the other ranks with an exit code when it misses one of them
        left = isinstance(ended, ChildEnded) and not ended.was_killed
        return "aborted" if left else "lost"
    if isinstance(error, TrainingTimeoutError | TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionError | EOFError):
        return "peer"  # the other tasks, or the driver, went away
    return "own"
