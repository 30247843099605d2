"""A program in a process of its own: with a time limit, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from spark_dlobd.errors import PersistenceError
from spark_dlobd.processes.linux import end_process_group

_MARK = "SPARK_DLOBD_CASE"
_POLL_S = 0.1
_GRACE_S = 20.0
_GONE_S = 5.0


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes
    ----------
    how : {"by itself", "timed out", "interrupted"}
        What ended it.
    returncode : int
        As of `subprocess.Popen`: minus the number of the signal that killed it.
    seconds : float
        How long it ran, its end included.
    """

    how: Literal["by itself", "timed out", "interrupted"]
    returncode: int
    seconds: float

    @property
    def text(self) -> str:
        """How it ended, in words."""
        if self.returncode >= 0:
            return f"exit code {self.returncode}"
        name = signal.Signals(-self.returncode).name
        hint = "; the kernel does this when memory runs out" if name == "SIGKILL" else ""
        return f"signal {-self.returncode} ({name}{hint})"


def run_process(
    command: Sequence[str],
    log: Path,
    time_limit_s: float,
    interrupted: Callable[[], bool] = lambda: False,
    environment: Mapping[str, str] | None = None,
    grace_s: float = _GRACE_S,
) -> Ended:
    """Run a program that leads its own session; return when all of it is gone.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    log : Path
        File that takes what it prints; written anew.
    time_limit_s : float
        When it is ended.
    interrupted : callable, optional
        Asked several times a second; true ends the program.
    environment : mapping of str to str, optional
        Added to this process's environment.
    grace_s : float, default 20
        Time between the polite end (SIGTERM to the program) and the other (SIGKILL to
        everything that it started, in whatever process group).

    Raises
    ------
    PersistenceError
        If the log file cannot be made.
    """
    mark = uuid.uuid4().hex
    began = time.monotonic()
    with _opened(log) as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {}), _MARK: mark},
        )
    try:
        how = _wait(process, began + time_limit_s, interrupted)
    finally:
        _end(process, mark, grace_s)
    return Ended(how, process.returncode, time.monotonic() - began)


def _opened(log: Path) -> IO[bytes]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("wb")
    except OSError as error:
        raise PersistenceError(
            f"The log {log} cannot be written: {error}. Make room or make the folder writable, "
            "and start the sweep again: it goes on there."
        ) from error


def _wait(
    process: subprocess.Popen[bytes], deadline: float, interrupted: Callable[[], bool]
) -> Literal["by itself", "timed out", "interrupted"]:
    while True:
        with suppress(subprocess.TimeoutExpired):  # the loop asks again
            process.wait(timeout=_POLL_S)
            return "by itself"
        if interrupted():
            return "interrupted"
        if time.monotonic() >= deadline:
            return "timed out"


def _end(process: subprocess.Popen[bytes], mark: str, grace_s: float) -> None:
    """End the program politely, then its group, then what has left the group."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):  # the SIGKILL below is the answer
            process.wait(timeout=grace_s)
    end_process_group(process, grace_s=0)
    deadline = time.monotonic() + _GONE_S
    while left := marked_processes(mark):
        # most leave by themselves, as what they were connected to is gone
        if time.monotonic() >= deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if time.monotonic() >= deadline + _GONE_S:
            break  # a process that the kernel holds; nobody can end it
        time.sleep(_POLL_S)


def marked_processes(mark: str) -> list[int]:
    """Pids of living processes that a program with this mark started."""
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "environ", "status"]):
        environment = process.info["environ"] or {}
        if environment.get(_MARK) == mark and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.info["pid"])
    return found
