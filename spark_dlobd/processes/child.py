"""A child process, owned by the Spark task that started it.

The task writes to the child's standard input (the job, then the communicator's
environment), the child writes events and the result to a pipe of its own, and
its standard output and error are log lines. Nothing touches the disk, so
nothing is left there whoever is killed.
"""

from __future__ import annotations

import collections
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from spark_dlobd.errors import TrainingError
from spark_dlobd.processes.events import Event, Failed
from spark_dlobd.processes.failure import Failure
from spark_dlobd.processes.forked import fork_process
from spark_dlobd.processes.frames import read_frame, write_frame
from spark_dlobd.processes.linux import end_process_group
from spark_dlobd.processes.stacks import SIGNAL, is_of_stacks, readable

_LEAVE_S = 5.0
_QUIET_S = 0.1

LogSink = Callable[[str], None]


class ChildFailed(TrainingError):
    """The child itself told that it failed, and how."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(f"{failure.type}: {failure.message}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.failure,)


class ChildEnded(TrainingError):
    """The child ended, and did not say why."""

    def __init__(self, text: str, was_killed: bool) -> None:
        self.was_killed = was_killed
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.was_killed)


class ChildProcess:
    """A Python child process with a program; a context manager.

    Runs on each worker. Leaving the block ends the child and everything in
    its process group; so does the death of the task's own process.

    Parameters
    ----------
    module : str
        Module with the program, run as by ``python -m``.
    environment : mapping of str to str
        Added to this process's environment.
    on_log : callable
        Receives each line the child prints, from a thread.
    title : str, default ""
        Shown behind the program in lists of processes.
    """

    def __init__(
        self, module: str, environment: Mapping[str, str], on_log: LogSink, title: str = ""
    ) -> None:
        self._module = module
        self._arguments = [title] if title else []
        self._environment = environment
        self._on_log = on_log
        self._told: queue.Queue[tuple[Event, bytes] | None] = queue.Queue()
        self.last_lines: collections.deque[str] = collections.deque(maxlen=40)
        self._has_told = False
        self._stacks: list[str] | None = None

    def __enter__(self) -> ChildProcess:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONUNBUFFERED": "1",
            **self._environment,
        }
        self.process = fork_process(self._module, self._arguments, environment)
        self._events = self.process.events
        self._threads = [
            threading.Thread(target=self._read_frames, name="rank-events", daemon=True),
            threading.Thread(target=self._read_log, name="rank-log", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def _read_frames(self) -> None:
        try:
            while frame := read_frame(self._events):
                self._has_told = True
                self._told.put((Event.from_json(frame[0]), frame[1]))
        except ValueError:
            # the pipe was closed by __exit__, or a killed child cut its last line
            pass
        finally:
            self._told.put(None)

    def _read_log(self) -> None:
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").rstrip()
            if self._stacks is not None and is_of_stacks(line):
                self._stacks.append(line)
                continue
            self.last_lines.append(line)
            self._on_log(line)

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Write one frame to the child; a child that died is seen when waiting."""
        try:
            write_frame(self.process.stdin, header, body)
        except BrokenPipeError:
            return

    def event(self, wait_s: float = 0.0) -> tuple[Event, bytes] | None:
        """Next event and what came with it; None if there is none within `wait_s`.

        Raises
        ------
        ChildEnded
            If there will be none.
        ChildFailed
            If the child told that it failed.
        """
        try:
            told = self._told.get(block=wait_s > 0, timeout=wait_s)
        except queue.Empty:
            return None
        if told is None:
            self._told.put(None)
            raise ChildEnded(self.exit_text(), self.was_killed)
        if isinstance(told[0], Failed):
            raise ChildFailed(told[0].failure)
        return told

    def exit_text(self, timeout_s: float = 5.0) -> str:
        """Say how the child ended, with what it printed last."""
        try:
            code = self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return "the process closed its pipe but did not end"
        for thread in self._threads:
            thread.join(timeout=1)
        if code < 0:
            name = signal.Signals(-code).name
            text = f"the process was killed by signal {-code} ({name})"
            if code == -signal.SIGKILL:
                text += "; the kernel does this when memory runs out"
        else:
            text = f"the process ended with exit code {code}"
        tail = "\n".join(list(self.last_lines)[-15:])
        return f"{text}. It printed last:\n{tail}" if tail else f"{text}."

    def stacks(self, timeout_s: float = 1.0) -> str:
        """What the child's threads are doing, asked by a signal.

        Parameters
        ----------
        timeout_s : float, default 1
            Longest wait. A child that is stopped, or has told nothing yet, gives no stacks.
        """
        # who has told nothing may not be forked yet: it has no process id
        if not self._has_told or self.process.poll() is not None:
            return "  none: the process does not run yet, or no more"
        self._stacks = []
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, SIGNAL)
        deadline, seen = time.monotonic() + timeout_s, -1
        while time.monotonic() < deadline and not 0 < len(self._stacks) == seen:
            seen = len(self._stacks)
            time.sleep(_QUIET_S)
        found, self._stacks = self._stacks, None
        return readable(found) or "  none: the process does not answer"

    def kill(self) -> None:
        """End a child that has no way to leave by itself."""
        self.process.kill()

    @property
    def was_killed(self) -> bool:
        """Whether the child ended by a signal that was not its own ``abort``.

        Gloo aborts when what connects to it speaks another language.
        """
        code = self.process.poll()
        return code is not None and code < 0 and code != -signal.SIGABRT

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with suppress(BrokenPipeError):  # the child is gone already
            self.process.stdin.close()
        if kind is None:  # a child that delivered its result leaves by itself
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=_LEAVE_S)
        if self.process.is_forked:
            end_process_group(self.process, grace_s=0.5)
        else:
            self.process.kill()
        for thread in self._threads:
            thread.join(timeout=2)
        self._events.close()
        self.process.stdout.close()
