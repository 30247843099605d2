"""What every task of the shuffle backend is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from spark_dlobd.backends.shuffle.wire.vectors import WireType

if TYPE_CHECKING:
    from pyspark import Accumulator, Broadcast


@dataclass(frozen=True)
class StartPoint:
    """Which checkpoints a job starts from, each an epoch and a step.

    Attributes
    ----------
    weights, optimizer, worker : tuple of int
        The parts; between epochs the driver writes new ones of some of them.
    """

    weights: tuple[int, int]
    optimizer: tuple[int, int]
    worker: tuple[int, int]

    @property
    def positions(self) -> frozenset[tuple[int, int]]:
        """All checkpoints in use."""
        return frozenset((self.weights, self.optimizer, self.worker))


@dataclass(frozen=True)
class ShuffleTask:
    """What every task of one Spark job needs.

    Attributes
    ----------
    run_id : str
        Names the fit; Python workers keep its built model by it.
    versions : dict of str to str
        What the driver has, as `driver_versions` says.
    payload : Broadcast of bytes
        A pickled `Assignment`.
    events : Accumulator
        Takes a list of events from every task.
    world_size : int
        Number of workers, partitions and slices.
    cores : int
        Threads of a task.
    wire : {"fp32", "bf16", "fp16"}
        Type of gradients and weights in the shuffle.
    state : {"host", "shuffle"}
        Where the state of a slice waits for the next update: in a file of its owner's
        executor, or in the shuffle, from update stage to gradient stage to update stage.
    sync_every : int
        Local steps between two synchronizations.
    checkpoints : str
        URL of the directory of checkpoints.
    epoch : int
        The epoch of all steps of the job.
    first_step : int
        Its first step.
    last_step : int
        The step after its last one, where it leaves a checkpoint.
    start : StartPoint
        Where the state before the first step is.
    learning_rate : float or None
        Replaces the optimizer's own; None leaves it, as with a schedule.
    clipnorm : float or None
        Norm of the whole gradient that is clipped to.
    """

    run_id: str
    versions: dict[str, str]
    payload: Broadcast[bytes]
    events: Accumulator[list[str]]
    world_size: int
    cores: int
    wire: WireType
    state: Literal["host", "shuffle"]
    sync_every: int
    checkpoints: str
    epoch: int
    first_step: int
    last_step: int
    start: StartPoint
    learning_rate: float | None
    clipnorm: float | None
