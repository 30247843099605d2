"""What the processes of a task tell, beside what those of every gang do."""

from __future__ import annotations

from dataclasses import dataclass

from spark_dlobd.processes.events import Event


@dataclass(frozen=True)
class Listening(Event):
    """A worker or a server is there."""

    port: int


@dataclass(frozen=True)
class Restarted(Event):
    """A task has started its worker again."""
