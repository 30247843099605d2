"""Linux process details: children that cannot outlive their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Protocol

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int, with_signal: int = signal.SIGKILL) -> None:
    """Ask the kernel to signal this process when its parent dies.

    Called first thing in a child. A parent that died before the call is seen
    by its pid. Does nothing on systems without ``prctl``.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, with_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


class Process(Protocol):
    """What a ``subprocess.Popen`` can, and what is used like one."""

    @property
    def pid(self) -> int:
        """Process id."""

    def poll(self) -> int | None:
        """Return code, or None while it runs."""

    def wait(self, timeout: float) -> int:
        """Return code, once it has ended."""


def end_process_group(process: Process, grace_s: float) -> None:
    """End a child that leads its own process group, first politely.

    SIGTERM, `grace_s` seconds, SIGKILL to the whole group, and the child is
    reaped.
    """
    if process.poll() is None and grace_s > 0:
        _signal_group(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):  # the SIGKILL below is the answer
            process.wait(timeout=grace_s)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait(timeout=10)


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return
