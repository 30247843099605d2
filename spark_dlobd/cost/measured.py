"""What a probe measured, as data. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ClusterCost:
    """What a Spark application offers and what it takes to move bytes in it.

    Attributes
    ----------
    slots : int
        Tasks that run at once over all hosts.
    hosts : int
        Machines that executors run on.
    cores_per_host : int
        Cores of the host with the fewest.
    cores_per_task : int
        ``spark.task.cpus``.
    memory_bytes_per_host : int
        Memory of the host with the least.
    workers : int
        Tasks at once while the rest was measured.
    latency_s : float or None
        One message to the next worker over TCP; None with one slot.
    bytes_per_s : float or None
        What a worker sends to its neighbour while it receives as much.
    copy_bytes_per_s : float
        Copying within memory, all workers at once.
    stage_s : float
        One stage of the shuffle with empty records.
    stage_bytes_per_s : float
        Bytes that each worker gets through one stage, out of Python and into it again.
    job_s : float
        What a Spark job adds to its stages.
    seconds : mapping of str to float
        What probing took, by part.
    """

    slots: int
    hosts: int
    cores_per_host: int
    cores_per_task: int
    memory_bytes_per_host: int
    workers: int
    latency_s: float | None
    bytes_per_s: float | None
    copy_bytes_per_s: float
    stage_s: float
    stage_bytes_per_s: float
    job_s: float
    seconds: Mapping[str, float] = field(default_factory=dict)

    def workers_per_host(self, workers: int) -> int:
        """Workers that share a host, if Spark fills all hosts evenly.

        More workers than slots are counted as if there were more hosts of this kind.
        """
        slots_per_host = max(1, self.slots // self.hosts)
        return min(slots_per_host, -(-workers // self.hosts))

    def to_json(self) -> dict[str, Any]:
        """Return a dict that JSON can hold."""
        return {**asdict(self), "seconds": dict(self.seconds)}


@dataclass(frozen=True)
class StepCost:
    """Seconds of one training step of a model, as a worker has it.

    Attributes
    ----------
    workers : int
        Processes that ran at once for `seconds`.
    workers_per_host : int
        Of them on the fullest host.
    rows : int
        Rows of a step of `seconds` and `alone_seconds`.
    seconds : float
        A step, all processes at once.
    alone_seconds : float
        The same step with one process at work.
    full_rows : int
        Rows of a step of `full_seconds` and `driver_seconds`.
    full_seconds : float
        A step with one process at work.
    driver_seconds : float
        A step in the driver's process, with its threads.
    ready_s : float
        Imports and building the model, all processes at once.
    tracing_s : float
        What the first step takes longer.
    memory_bytes : int
        Memory of a worker's process after its steps.
    probe_seconds : mapping of str to float
        What probing took, by part.
    """

    workers: int
    workers_per_host: int
    rows: int
    seconds: float
    alone_seconds: float
    full_rows: int
    full_seconds: float
    driver_seconds: float
    ready_s: float
    tracing_s: float
    memory_bytes: int
    probe_seconds: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a dict that JSON can hold."""
        return {**asdict(self), "probe_seconds": dict(self.probe_seconds)}
