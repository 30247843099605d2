"""What the process that times steps tells."""

from __future__ import annotations

from dataclasses import dataclass

from spark_dlobd.processes.events import Event


@dataclass(frozen=True)
class Ready(Event):
    """The model is built and its step traced, after so many seconds each."""

    ready_s: float
    tracing_s: float


@dataclass(frozen=True)
class Timed(Event):
    """Seconds of a step, and bytes that the process holds."""

    seconds: float
    memory_bytes: int
