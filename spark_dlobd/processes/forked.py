"""Child processes that are forked where TensorFlow is imported already. Runs on each worker.

A Python worker of Spark keeps one server that forks (`spark_dlobd.processes.fork_server`) for as
long as it lives: Spark ends a worker that had nothing to do for a minute, and its server with it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from spark_dlobd.processes.fork_server import LENGTH, ForkRequest

_SERVER = "spark_dlobd.processes.fork_server"
_TITLE_ROOM = 400
_FORK_TIMEOUT_S = 120.0
# Read when TensorFlow or Horovod begins to work, not when it is imported.
_READ_LATER = ("CUDA_VISIBLE_DEVICES", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
_READ_LATER_PREFIX = "HOROVOD_"

_lock = threading.Lock()
_server: _Server | None = None
_left: list[_Server] = []
"""Replaced; each ends with its last child, and is reaped at the next start."""


class ForkedProcess:
    """A child of the server, used like a ``subprocess.Popen``.

    Attributes
    ----------
    stdin, stdout, events : file
        Ends of its pipes; standard error goes to `stdout` too.
    returncode : int or None
        As of ``Popen``.
    """

    def __init__(
        self, server: _Server, status: int, stdin: IO[bytes], stdout: IO[bytes], events: IO[bytes]
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.events = events
        self.returncode: int | None = None
        self._server = server
        self._status: IO[bytes] | None = os.fdopen(status, "rb", buffering=0)
        self._told = b""

    @property
    def pid(self) -> int:
        """Process id.

        Raises
        ------
        TimeoutError
            If the server does not come to fork it.
        """
        while not self.is_forked:
            if self._status is None or not self._take(_FORK_TIMEOUT_S):
                raise TimeoutError(f"the process was not forked within {_FORK_TIMEOUT_S:g} s")
        return int(self._told.partition(b"\n")[0])

    @property
    def is_forked(self) -> bool:
        """Whether the server is known to have forked it."""
        return b"\n" in self._told

    def poll(self) -> int | None:
        """Return code, or None while it runs."""
        while self._status is not None and self._take(0):
            pass
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Return code, once it has ended.

        Raises
        ------
        subprocess.TimeoutExpired
            If it still runs after `timeout` seconds.
        """
        while self._status is not None:
            if not self._take(timeout):
                raise subprocess.TimeoutExpired("forked process", timeout)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """End it at once; a server that has not come to fork it ends in its place."""
        if self.poll() is not None:
            return
        if self.is_forked:
            # it may have ended while the word of that is still under way
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        else:
            self._server.process.kill()

    def _take(self, timeout_s: float) -> bool:
        """Read what the server has told; whether anything came."""
        assert self._status is not None
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return False
        piece = self._status.read(64)
        self._told += piece or b""
        lines = self._told.split(b"\n")
        if len(lines) == 3:
            self._end(int(lines[1]))
        elif not piece:  # a server that dies takes its children along
            code = self._server.process.wait(_FORK_TIMEOUT_S)
            self._end(code if len(lines) == 1 else -signal.SIGKILL)
        return True

    def _end(self, code: int) -> None:
        assert self._status is not None
        self.returncode = code
        self._status.close()
        self._status = None


class _Server:
    """The server of this process, and what it was started with."""

    def __init__(self, environment: Mapping[str, str], output: int) -> None:
        self.owner = os.getpid()
        self.environment = _read_at_import(environment)
        self._requests, theirs = socket.socketpair()
        log = os.dup(2)
        command = [sys.executable, "-m", _SERVER, str(os.getpid()), str(theirs.fileno()), str(log)]
        try:
            self.process = subprocess.Popen(
                [*command, " " * _TITLE_ROOM],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno(), log],
                start_new_session=True,
                env=environment,
            )
        except BaseException:
            self._requests.close()
            raise
        finally:
            theirs.close()
            os.close(log)

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether it can fork a process with that environment."""
        return (
            self.owner == os.getpid()
            and self.process.poll() is None
            and self.environment == _read_at_import(environment)
        )

    def send(self, request: ForkRequest, descriptors: Sequence[int]) -> None:
        """Ask for a process."""
        text = request.to_json()
        socket.send_fds(self._requests, [LENGTH.pack(len(text))], descriptors)
        self._requests.sendall(text)

    def leave(self) -> None:
        """Let it end once its last child has."""
        self._requests.close()


def fork_process(
    module: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> ForkedProcess:
    """Start ``python -m module PARENT_PID EVENTS_FD arguments...`` without its imports.

    Parameters
    ----------
    module : str
        Module with the program.
    arguments : sequence of str
        Its further arguments.
    environment : mapping of str to str
        Its whole environment.
    """
    global _server
    stdin, to_stdin = os.pipe()
    from_stdout, stdout = os.pipe()
    from_events, events = os.pipe()
    from_status, status = os.pipe()
    request = ForkRequest(
        module, tuple(arguments), dict(environment), tuple(filter(None, sys.path)), os.getcwd()
    )
    try:
        with _lock:
            if _server is None or not _server.fits(environment):
                if _server is not None:
                    _server.leave()
                    _left.append(_server)
                _left[:] = [left for left in _left if left.process.poll() is None]
                _server = _Server(environment, stdout)
            server = _server
            server.send(request, [stdin, stdout, events, status])
    except BaseException:
        for descriptor in (to_stdin, from_stdout, from_events, from_status):
            os.close(descriptor)
        raise
    finally:
        for descriptor in (stdin, stdout, events, status):
            os.close(descriptor)
    return ForkedProcess(
        server,
        from_status,
        os.fdopen(to_stdin, "wb"),
        os.fdopen(from_stdout, "rb"),
        os.fdopen(from_events, "rb"),
    )


def _read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name not in _READ_LATER and not name.startswith(_READ_LATER_PREFIX)
    }
