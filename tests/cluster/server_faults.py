"""Faults of the parameter-server backend. Shipped to its processes by value."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import keras
import psutil

ROLE_MAIN = "parameter_server.role_main"


def processes() -> list[psutil.Process]:
    """The backend's processes of this run of the tests, oldest first."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ", "create_time"]):
        same_run = (process.info["environ"] or {}).get("TMPDIR") == os.environ.get("TMPDIR")
        if same_run and any(ROLE_MAIN in part for part in process.info["cmdline"] or []):
            found.append(process)
    return sorted(found, key=lambda process: process.info["create_time"])


def role_of(process: psutil.Process) -> str:
    """Role and index, from the command line, e.g. ``"worker 1"``."""
    return " ".join(" ".join(process.cmdline()).split()[-2:])


def kill(role: str) -> None:
    """Kill the process of that role."""
    victims = [process for process in processes() if role_of(process) == role]
    assert len(victims) == 1, f"{role}: {victims}"
    os.kill(victims[0].pid, signal.SIGKILL)


class Once(keras.callbacks.Callback):  # type: ignore[misc]
    """Does something once, in the coordinator, early in the second epoch."""

    def __init__(self, sign: str, action: Any, *arguments: Any) -> None:
        super().__init__()
        self._sign = sign
        self._action = action
        self._arguments = arguments
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._epoch == 1 and batch == 2 and not os.path.exists(self._sign):
            with open(self._sign, "w"):
                self._action(*self._arguments)


def fail() -> None:
    raise ZeroDivisionError("the user's own mistake")


def kill_executor() -> None:
    java = next(p for p in psutil.Process().parents() if p.name() == "java")
    os.kill(java.pid, signal.SIGKILL)
    time.sleep(60)


class StopAt(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets ``stop_training`` in the middle of the second epoch."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = False
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._epoch == 1 and batch == 3:
            self.model.stop_training = True


class SlowWorker(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops worker 1 for three fifths of the time, as a busy machine would.

    It begins after the first step: while the coordinator traces the step it waits for every
    worker at each of some hundred functions.
    """

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        import threading

        if hasattr(self, "_done"):
            return
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._slow, daemon=True)
        self._thread.start()

    def _slow(self) -> None:
        victim = next(p for p in processes() if role_of(p) == "worker 1")
        while not self._done.is_set():
            victim.suspend()
            self._done.wait(0.3)
            victim.resume()
            self._done.wait(0.2)

    def on_train_end(self, logs: Any = None) -> None:
        self._done.set()
        self._thread.join(timeout=5)
