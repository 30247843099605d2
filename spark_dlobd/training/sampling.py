"""Samples what a process and its host do, in a thread. Runs on each worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from spark_dlobd.training.gpu import open_gpus
from spark_dlobd.training.series import Series

FIELDS = ("time", "cpu_percent", "rss_bytes", "sent_bytes_per_s", "received_bytes_per_s")
GPU_FIELDS = ("gpu_percent", "gpu_memory_bytes")
_FIRST_S = 0.05
"""After which the first point is taken, so that a short fit has one too."""
_SHORTEST_S = 0.02
_FIRST_TIMEOUT_S = 1.0
_STOP_TIMEOUT_S = 5.0


class Sampler:
    """A thread that takes a point every `interval_s`, in bounded memory.

    The first point is there when `drain` returns for the first time. A problem ends the
    sampling, never the process: `drain` tells it.

    Parameters
    ----------
    interval_s : float, default 1
        Seconds between two points, after the first.

    Examples
    --------
    >>> with Sampler() as sampler:  # doctest: +SKIP
    ...     train()
    >>> sampler.drain()["points"]  # doctest: +SKIP
    """

    def __init__(self, interval_s: float = 1.0) -> None:
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._first = threading.Event()
        self._lock = threading.Lock()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="dlobd-sampler", daemon=True)
        self._series = Series(FIELDS)
        self.cpu_seconds = 0.0
        """CPU time of the thread so far: what sampling costs."""

    def start(self) -> Sampler:
        """Start the thread."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Take a last point and end the thread; a second call does nothing."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)

    def __enter__(self) -> Sampler:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def drain(self) -> dict[str, Any]:
        """Take the points since the last call, as `Observed.measured` wants them."""
        if self._thread.is_alive():
            self._first.wait(_FIRST_TIMEOUT_S)
        with self._lock:
            series, self._series = self._series, Series(self._series.fields)
            problem, self._problem = self._problem, None
        facts: dict[str, Any] = {}
        if points := series.points:
            facts["utilization"] = {"fields": series.fields, "points": points}
        if problem is not None:
            facts["problem"] = problem
        return facts

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                self._sample(self._gpus(stack))
        except Exception as error:
            self._tell(f"Sampling of utilization ended: {type(error).__name__}: {error}")
        finally:
            self._first.set()

    def _gpus(self, stack: ExitStack) -> Callable[[], tuple[float, float]] | None:
        try:
            gpus = stack.enter_context(open_gpus())
        except Exception as error:  # of NVML, or it is not there: the rest is sampled
            self._tell(f"{type(error).__name__}: {error}")
            return None
        if gpus is None:
            return None
        with self._lock:
            self._series = Series(FIELDS + GPU_FIELDS)
        return gpus.read

    def _tell(self, problem: str) -> None:
        with self._lock:
            self._problem = problem

    def _sample(self, read_gpus: Callable[[], tuple[float, float]] | None) -> None:
        import psutil

        process = psutil.Process()
        process.cpu_percent()  # the first call only sets the start
        then, before = time.monotonic(), psutil.net_io_counters()
        wait_s, shortest_s = min(_FIRST_S, self._interval_s), _SHORTEST_S
        stopped = False
        while not stopped:
            stopped = self._stopped.wait(wait_s)
            now = time.monotonic()
            if now - then < shortest_s:
                break
            after = psutil.net_io_counters()
            point = [
                time.time(),
                process.cpu_percent(),
                float(process.memory_info().rss),
                (after.bytes_sent - before.bytes_sent) / (now - then),
                (after.bytes_recv - before.bytes_recv) / (now - then),
                *(read_gpus() if read_gpus is not None else ()),
            ]
            then, before = now, after
            wait_s, shortest_s = self._interval_s, self._interval_s / 2
            with self._lock:
                self._series.add(point)
            self._first.set()
            self.cpu_seconds = time.thread_time()
