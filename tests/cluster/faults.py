"""Faults, and what may be left after them. Shipped to the ranks by value."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import psutil


def own_rank() -> int:
    return int(os.environ["SPARK_DLOBD_RANK"])


class At(keras.callbacks.Callback):  # type: ignore[misc]
    """Does something once on one rank at one step of the second epoch."""

    def __init__(self, rank: int, step: int = 2) -> None:
        super().__init__()
        self._rank = rank
        self._step = step
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._epoch == 1 and batch == self._step and own_rank() == self._rank:
            self.act()

    def act(self) -> None:
        raise NotImplementedError


class Raise(At):
    def act(self) -> None:
        raise ZeroDivisionError("the user's own mistake")


class KillRank(At):
    def act(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Sleep(At):
    def act(self) -> None:
        time.sleep(75)


class KillExecutor(At):
    def act(self) -> None:
        java = next(p for p in psutil.Process().parents() if p.name() == "java")
        os.kill(java.pid, signal.SIGKILL)
        time.sleep(60)


class Slow(keras.callbacks.Callback):  # type: ignore[misc]
    """Takes its time on one rank in every step."""

    def __init__(self, rank: int, seconds: float) -> None:
        super().__init__()
        self._rank = rank
        self._seconds = seconds

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if own_rank() == self._rank:
            time.sleep(self._seconds)


class Touch(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells the test that training is under way, then makes it last."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        Path(self._path).touch()
        time.sleep(0.2)


def ours() -> set[str]:
    """Processes, listening ports and temporary files that could be this library's."""
    found = set()
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        text = " ".join(process.info["cmdline"] or [])
        # another run of the tests on this machine has a temporary directory of its own
        temporary = (process.info["environ"] or {}).get("TMPDIR", "")
        own = os.environ.get("TMPDIR", "")
        folders = ("/dev/shm/spark-dlobd-", *([f"{own}/"] if own else []))
        same_run = temporary == own or temporary.startswith(folders)
        names = ("spark_dlobd.", "mpi_placeholder", "mpirun", "prted")
        # Spark's Python workers keep the server that forks, and end with the session
        kept = "spark_dlobd.processes.fork_server" in text
        if same_run and not kept and any(name in text for name in names):
            found.add(f"process {process.info['pid']} {text[:200]}")
    for connection in psutil.Process().net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN:
            found.add(f"port {connection.laddr.port}")
    temporary = Path(tempfile.gettempdir())
    for pattern in ("spark-dlobd-*", "ompi.*", "__autograph_generated_file*"):
        found |= {f"file {path}" for path in temporary.glob(pattern)}
    for pattern in ("sm_segment*", "spark-dlobd-*"):
        found |= {f"file {path}" for path in Path("/dev/shm").glob(pattern)}
    return found


def wait_until_gone(before: set[str], timeout_s: float) -> set[str]:
    """What is there besides `before`, once nothing is or the time is over."""
    deadline = time.monotonic() + timeout_s
    while (left := ours() - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


class WantsToStop(At):
    """Sets ``stop_training`` within the second epoch, on one rank alone."""

    def act(self) -> None:
        self.model.stop_training = True
