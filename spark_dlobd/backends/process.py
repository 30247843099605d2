"""One child process per rank, owned by the barrier task that started it.

The task writes to the child's standard input (the job, then the communicator's
environment), the child writes events and the result to a pipe of its own, and
its standard output and error are log lines. Nothing touches the disk, so
nothing is left there whoever is killed.
"""

from __future__ import annotations

import collections
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any

from spark_dlobd.backends.linux import end_process_group

_LEAVE_S = 5.0

LogSink = Callable[[str], None]


def write_frame(stream: IO[bytes], header: dict[str, Any], body: bytes = b"") -> None:
    """Write one JSON line and `body` after it."""
    stream.write(json.dumps({**header, "bytes": len(body)}).encode() + b"\n")
    stream.write(body)
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Read what `write_frame` wrote; None at the end of the stream."""
    line = stream.readline()
    if not line:
        return None
    header = json.loads(line)
    size = header.pop("bytes")
    body = stream.read(size)
    if len(body) != size:
        return None
    return header, body


class RankProcess:
    """A Python child process that trains one rank; a context manager.

    Runs on each worker. Leaving the block ends the child and everything in
    its process group; so does the death of the task's own process.

    Parameters
    ----------
    module : str
        Module run with ``python -m``.
    environment : mapping of str to str
        Added to this process's environment.
    on_log : callable
        Receives each line the child prints, from a thread.
    """

    def __init__(self, module: str, environment: Mapping[str, str], on_log: LogSink) -> None:
        self._module = module
        self._environment = environment
        self._on_log = on_log
        self.frames: queue.Queue[tuple[dict[str, Any], bytes] | None] = queue.Queue()
        self.last_lines: collections.deque[str] = collections.deque(maxlen=40)

    def __enter__(self) -> RankProcess:
        read_end, write_end = os.pipe()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONUNBUFFERED": "1",
            **self._environment,
        }
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module, str(os.getpid()), str(write_end)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[write_end],
                start_new_session=True,
                env=environment,
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self._events = os.fdopen(read_end, "rb")
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
                self.frames.put(frame)
        except ValueError:
            # the pipe was closed by __exit__, or a killed child cut its last line
            pass
        finally:
            self.frames.put(None)

    def _read_log(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").rstrip()
            self.last_lines.append(line)
            self._on_log(line)

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Write one frame to the child; a child that died is seen when waiting."""
        assert self.process.stdin is not None
        try:
            write_frame(self.process.stdin, header, body)
        except BrokenPipeError:
            return

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

    def kill(self) -> None:
        """End a child that has no way to leave by itself."""
        self.process.kill()

    @property
    def was_killed(self) -> bool:
        """Whether the child ended by a signal."""
        code = self.process.poll()
        return code is not None and code < 0

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the child is gone already
            self.process.stdin.close()
        if kind is None:  # a child that delivered its result leaves by itself
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=_LEAVE_S)
        end_process_group(self.process, grace_s=0.5)
        for thread in self._threads:
            thread.join(timeout=2)
        self._events.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
