"""Program that forks what has TensorFlow already: ``fork_server PARENT_PID SOCKET_FD LOG_FD``.

Runs on each worker, as a child of Spark's Python worker, and ends with it. A process of a
gang needs 2 to 3 s of a core to import TensorFlow; a fork of one that has done so begins at
once, and shares the memory of what is imported. The server itself never uses TensorFlow, so
what is forked has no thread, no device and no connection of its parent.

A request comes over the socket: its length with four descriptors (standard input, output,
events, status), then JSON. The child's process id and later its exit code are lines that the
server writes to the status descriptor.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from spark_dlobd.processes.linux import die_with_parent
from spark_dlobd.processes.stacks import SIGNAL

LENGTH = struct.Struct("!I")
DESCRIPTORS = 4

# What every process of a gang imports, besides TensorFlow.
_PRELOADED = ("cloudpickle", "spark_dlobd.training.loop")
_EVENTS = 3
# Libraries stop these native threads for a fork and start them again: jemalloc's, and OpenBLAS's,
# which have the name of the program.
_STOPPED_FOR_A_FORK = ("jemalloc_bg_thd",)


@dataclass(frozen=True)
class ForkRequest:
    """A process to fork.

    Attributes
    ----------
    module : str
        Module that it runs, with the parent's process id and the descriptor of events as its
        first arguments.
    arguments : tuple of str
        Further arguments.
    environment : dict of str to str
        The whole environment.
    path : tuple of str
        ``sys.path``.
    directory : str
        Working directory.
    """

    module: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    path: tuple[str, ...]
    directory: str

    def to_json(self) -> bytes:
        """As it is sent."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> ForkRequest:
        """What `to_json` made."""
        told = json.loads(text)
        told |= {name: tuple(told[name]) for name in ("arguments", "path")}
        return cls(**told)


@dataclass(frozen=True)
class Fork:
    """What a child is to become."""

    request: ForkRequest
    descriptors: Sequence[int]
    server: int
    unsafe: Sequence[str]


def serve(requests: socket.socket, log: int) -> Fork | None:
    """Fork until the owner has closed the socket and every child has ended.

    Parameters
    ----------
    requests : socket
        Where the owner asks.
    log : int
        Descriptor for what this process prints once the first child has its own.

    Returns
    -------
    Fork or None
        In a child, what it is to become; None in the server, at its end.
    """
    ended, tell_ended = socket.socketpair()
    for end in (ended, tell_ended):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    # a child that is asked for its stacks before it is set up is not to end by that
    signal.signal(SIGNAL, signal.SIG_IGN)
    signal.set_wakeup_fd(tell_ended.fileno(), warn_on_full_buffer=False)
    waiting = selectors.DefaultSelector()
    waiting.register(requests, selectors.EVENT_READ)
    waiting.register(ended, selectors.EVENT_READ)
    children: dict[int, int] = {}
    is_asked = True
    while is_asked or children:
        ready = [key.fileobj for key, _ in waiting.select()]
        if ended in ready:
            ended.recv(4096)
            _report_ended(children)
        if requests not in ready:
            continue
        told = _receive(requests)
        if told is None:
            waiting.unregister(requests)
            is_asked = False
            continue
        request, descriptors = told
        _import_once(descriptors[2])
        fork = Fork(request, descriptors, os.getpid(), unsafe_threads())
        pid = os.fork()
        if pid == 0:
            _forget(waiting, [requests, ended, tell_ended], children)
            return fork
        _show_output_in(log)
        *childs, children[pid] = descriptors
        for descriptor in childs:
            os.close(descriptor)
        _tell(children[pid], pid)
    return None


def become(fork: Fork) -> None:
    """Turn a new child into the program that was asked for, and run it."""
    os.setsid()
    die_with_parent(fork.server)
    stdin, output, events, _ = fork.descriptors
    for descriptor, number in ((stdin, 0), (output, 1), (output, 2), (events, _EVENTS)):
        os.dup2(descriptor, number)
    for descriptor in fork.descriptors:
        if descriptor > _EVENTS:
            os.close(descriptor)
    request = fork.request
    arguments = [str(fork.server), str(_EVENTS), *request.arguments]
    os.chdir(request.directory)
    if fork.unsafe:
        print(f"Started anew, not forked: there are threads: {', '.join(fork.unsafe)}", flush=True)
        command = [sys.executable, "-m", request.module, *arguments]
        os.execve(sys.executable, command, request.environment)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.path[:] = request.path
    sys.argv[:] = [request.module, *arguments]
    _show_as(" ".join([sys.executable, "-m", *sys.argv]))
    if "numpy" in sys.modules:  # else all children would draw the same numbers
        sys.modules["numpy"].random.seed()
    runpy.run_module(request.module, run_name="__main__", alter_sys=True)


def _receive(requests: socket.socket) -> tuple[ForkRequest, list[int]] | None:
    """Next request and its descriptors; None when the owner has closed the socket."""
    head, descriptors, _, _ = socket.recv_fds(requests, LENGTH.size, DESCRIPTORS)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    text = bytearray()
    while len(text) < size:
        piece = requests.recv(size - len(text))
        if not piece:
            return None
        text += piece
    return ForkRequest.from_json(bytes(text)), list(descriptors)


def _report_ended(children: dict[int, int]) -> None:
    """Tell the owner of the children that have ended how they did."""
    for pid, status in list(children.items()):
        found, how = os.waitpid(pid, os.WNOHANG)
        if found:
            _tell(status, os.waitstatus_to_exitcode(how))
            os.close(status)
            del children[pid]


def _tell(status: int, number: int) -> None:
    with suppress(BrokenPipeError):  # the owner did not wait for it
        os.write(status, f"{number}\n".encode())


def _import_once(events: int) -> None:
    """Import what is preloaded. What fails is imported again by the child, which tells why."""
    if "tensorflow" in sys.modules:
        return
    from spark_dlobd.processes.events import Phase
    from spark_dlobd.processes.frames import write_frame
    from spark_dlobd.processes.tensorflow_import import import_tensorflow

    with os.fdopen(os.dup(events), "wb") as stream, suppress(BrokenPipeError):
        write_frame(stream, Phase("import tensorflow").to_json(), b"")
    try:
        import_tensorflow()
        for name in _PRELOADED:
            importlib.import_module(name)
    except Exception as error:
        print(f"Not imported ahead: {type(error).__name__}: {error}", flush=True)
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, what it shares


def unsafe_threads() -> list[str]:
    """Names of the threads that a fork would leave behind with what they hold."""
    python = [thread.name for thread in threading.enumerate()]
    own, native = "", []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # it ended meanwhile
            name = (task / "comm").read_text().strip()
            if task.name == str(os.getpid()):
                own = name
            native.append(name)
    safe = (own, *_STOPPED_FOR_A_FORK)
    return python[1:] + [name for name in native if name not in safe]


def _forget(
    waiting: selectors.BaseSelector, sockets: Sequence[socket.socket], children: Mapping[int, int]
) -> None:
    """Undo in a child what belongs to the server and to other children."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    waiting.close()
    for each in sockets:
        each.close()
    for status in children.values():
        os.close(status)


def _show_output_in(log: int) -> None:
    """Leave the pipe of the first child, which ends when nobody has it open."""
    os.dup2(log, 1)
    os.dup2(log, 2)


def _show_as(command: str) -> None:
    """Let process lists show a command line; what has no room is cut.

    Linux shows the text up to its first NUL once the last byte of the arguments is none.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    text = os.fsencode(command)[: end - start - 2]
    ctypes.memset(start, ord(" "), end - start)
    ctypes.memmove(start, text + b"\0", len(text) + 1)


def main() -> None:
    """Serve, or, in a child, run its program."""
    die_with_parent(int(sys.argv[1]))
    fork = serve(socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]))
    if fork is not None:
        become(fork)


if __name__ == "__main__":
    main()
