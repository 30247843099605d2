"""What tasks tell the driver while a job runs, through a Spark accumulator."""

from __future__ import annotations

import json
import queue
from typing import TYPE_CHECKING, Any

from pyspark.accumulators import AccumulatorParam

from spark_dlobd.processes.events import Event

if TYPE_CHECKING:
    from pyspark import Accumulator, SparkContext


class _Forwarding(AccumulatorParam["list[str]"]):
    """On workers a growing list, on the driver a queue."""

    def __init__(self, arrived: queue.SimpleQueue[str] | None = None) -> None:
        self._arrived = arrived

    def zero(self, value: list[str]) -> list[str]:
        return []

    def addInPlace(self, value1: list[str], value2: list[str]) -> list[str]:
        if self._arrived is None:
            return [*value1, *value2]
        for text in value2:
            self._arrived.put(text)
        return value1

    def __reduce__(self) -> tuple[Any, ...]:
        return _Forwarding, ()


class EventStream:
    """Events in the order in which their tasks ended. Runs on the driver.

    A task that Spark runs again tells its events again.
    """

    def __init__(self, context: SparkContext) -> None:
        self._arrived: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.accumulator: Accumulator[list[str]] = context.accumulator(
            [], _Forwarding(self._arrived)
        )

    def next(self, timeout_s: float) -> Event | None:
        """Return the next event; None if there is none for `timeout_s`."""
        try:
            return Event.from_json(json.loads(self._arrived.get(timeout=timeout_s)))
        except queue.Empty:
            return None

    def clear(self) -> None:
        """Forget what has not been heard."""
        while not self._arrived.empty():
            self._arrived.get()
