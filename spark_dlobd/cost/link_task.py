"""What one worker measures of its machine and of the way to the next one. Runs on each worker."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_LATENCY_ROUNDS = 50
_EXCHANGE_BYTES = 2 << 20
_EXCHANGES = 6
_COPY_BYTES = 16 << 20
_COPIES = 4


@dataclass(frozen=True)
class LinkTask:
    """What every task needs.

    Attributes
    ----------
    driver_host : str
        Decides the interface.
    token : bytes
        Of this probe.
    timeout_s : float
        Longest wait for another task.
    """

    driver_host: str
    token: bytes
    timeout_s: float

    def __repr__(self) -> str:
        """Leave the token out: this may end up in a log."""
        return f"LinkTask(driver_host={self.driver_host!r}, timeout_s={self.timeout_s})"


def run_link_task(task: LinkTask, _: Iterable[Any]) -> Iterator[bytes]:
    """Measure and yield one JSON object."""
    from pyspark import BarrierTaskContext

    from spark_dlobd.cost.ring import Ring
    from spark_dlobd.processes.machine import memory_bytes, usable_cores

    latency = exchange = None
    with Ring(BarrierTaskContext.get(), task.driver_host, task.token, task.timeout_s) as ring:
        if ring.size > 1:
            ring.meet()
            latency = statistics.median(ring.pass_on(1) for _ in range(_LATENCY_ROUNDS))
            ring.meet()
            seconds = [ring.pass_on(_EXCHANGE_BYTES) for _ in range(_EXCHANGES)]
            # the first ones find TCP's window small
            exchange = statistics.median(seconds[2:])
        ring.meet()
        found = {
            "address": ring.address,
            "latency_s": latency,
            "exchange_s": exchange,
            "exchange_bytes": _EXCHANGE_BYTES,
            "copy_bytes_per_s": _copy_rate(),
            "cores": usable_cores(),
            "memory_bytes": memory_bytes(),
        }
        ring.meet()
    yield json.dumps(found).encode()


def _copy_rate() -> float:
    """Bytes a second of a copy within memory."""
    import numpy as np

    source, target = np.ones(_COPY_BYTES, np.uint8), np.zeros(_COPY_BYTES, np.uint8)
    seconds = []
    for _ in range(_COPIES):
        began = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - began)
    return _COPY_BYTES / statistics.median(seconds)
