"""TensorFlow without what only Keras's extras need: half of the time of its import.

Keras imports scikit-learn and matplotlib where they are installed, for wrappers and for
pictures. Every rank, server and probe is a process that imports TensorFlow before it can do
anything, with as many of them at once as there are cores.

While it is imported, TensorFlow's libraries write two lines to standard error that no setting
keeps back: that their log is not set up yet, and that oneDNN is on. `without_chatter` drops
exactly these.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

# Keras's scikit-learn wrappers derive from its classes, so they cannot come later.
_LEFT_OUT = ("sklearn",)
_DEFERRED = ("matplotlib", "matplotlib.pyplot", "matplotlib.patches")


def import_tensorflow() -> Any:
    """Runs on each worker. Import TensorFlow, and with it Keras, as a worker needs them.

    In this process Keras then finds matplotlib when it is used, and says that
    scikit-learn is missing if one of its wrappers for that is used; other code
    imports both as always. What was imported before stays as it is.

    Returns
    -------
    module
        ``tensorflow``.

    Examples
    --------
    >>> tf = import_tensorflow()
    >>> tf.__name__
    'tensorflow'
    """
    with without_chatter(), _hidden():
        return importlib.import_module("tensorflow")


# A program of its own, because the import holds Python's lock and may end the process: what was
# written until then still comes out. It answers on its socket once it has passed on all of that;
# it ends when nobody can write to it any more, which is later where a program was started
# meanwhile, such as Spark's JVM.
_PASS_ON = r"""
import os, re, select, sys
known = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    rb"|I\d{4} [\d:.]+\s+\d+ port\.cc:\d+\] oneDNN custom operations are on\. "
)
starts = b"WARNING: All log", b"I0000 "
def maybe_known(line):
    return any(start.startswith(line) or line.startswith(start) for start in starts)
def write(text):
    while text:
        text = text[os.write(1, text):]
def write_line():
    write(b"" if known.match(line) else line)
sources, line = [0, int(sys.argv[1])], b""
while True:
    if 0 in select.select(sources, [], [])[0]:
        piece = os.read(0, 65536)
        if not piece:
            break
        *whole, line = (line + piece).split(b"\n")
        write(b"".join(each + b"\n" for each in whole if not known.match(each)))
        if maybe_known(line):
            continue
    else:
        os.close(sources.pop())
    write_line()
    line = b""
write_line()
"""
_CLOSE_TIMEOUT_S = 5.0
_END_TIMEOUT_S = 0.2
_one_at_a_time = threading.Lock()
_still_read: list[subprocess.Popen[bytes]] = []


def import_keras() -> Any:
    """Runs on the driver. Import Keras whole, where the user's program has not: quietly.

    Returns
    -------
    module
        ``keras``.
    """
    with without_chatter():
        return importlib.import_module("keras")


@contextmanager
def without_chatter() -> Iterator[None]:
    """Drop TensorFlow's two unavoidable lines from standard error while it is imported.

    Every other line passes at once, also when the process dies. Where TensorFlow is imported
    already, or standard error is closed, nothing is done.

    Examples
    --------
    >>> with without_chatter():  # doctest: +SKIP
    ...     import keras
    """
    if "tensorflow" in sys.modules or not _one_at_a_time.acquire(blocking=False):
        yield
        return
    try:
        with _filtered():
            yield
    finally:
        _one_at_a_time.release()


@contextmanager
def _filtered() -> Iterator[None]:
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    ours, theirs = socket.socketpair()
    try:
        # In a session of its own: Ctrl-C and the end of a rank's group are not for it.
        reader = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PASS_ON, str(theirs.fileno())],
            stdin=subprocess.PIPE,
            stdout=kept,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    except OSError:
        reader = None
    theirs.close()
    with ours:
        if reader is None:
            os.close(kept)
            yield
            return
        assert reader.stdin is not None
        _flush()
        os.dup2(reader.stdin.fileno(), 2)
        reader.stdin.close()
        try:
            yield
        finally:
            _flush()
            os.dup2(kept, 2)
            os.close(kept)
            _wait_for(reader, ours)


def _wait_for(reader: subprocess.Popen[bytes], control: socket.socket) -> None:
    """Until all that was written has passed."""
    control.settimeout(_CLOSE_TIMEOUT_S)
    with suppress(OSError):
        control.shutdown(socket.SHUT_WR)
        control.recv(1)
    try:
        reader.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:  # another program writes to it
        _still_read.append(reader)


def _flush() -> None:
    with suppress(AttributeError, OSError, ValueError):  # closed, or none at all
        sys.stderr.flush()


class _Deferred(ModuleType):
    """Imported when something of it is used for the first time."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or sys.modules.get(self.__name__) is self:
            raise AttributeError(f"module {self.__name__!r} is not imported yet: no {name!r}")
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def _hidden() -> Iterator[None]:
    stand_ins: dict[str, ModuleType | None] = {
        name: None for name in _LEFT_OUT if name not in sys.modules
    }
    if not any(name in sys.modules for name in _DEFERRED):
        stand_ins |= {name: _Deferred(name) for name in _DEFERRED}
        for name in _DEFERRED[1:]:
            setattr(stand_ins["matplotlib"], name.rpartition(".")[2], stand_ins[name])
    sys.modules.update(stand_ins)  # type: ignore[arg-type]  # None means: not there
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
