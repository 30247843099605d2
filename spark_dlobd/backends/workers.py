"""How many workers a training pays for: the rule of ``numTrainWorkers=0``. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from spark_dlobd.backends.guess import computing_seconds, step_seconds
from spark_dlobd.report.words import about_text

_START_S = 5.0
"""What a gang takes longer to start than the driver's own process."""
_LEAST_ROWS = 16
"""Of a worker in a step: fewer leave its cores idle."""
_WORTH = 0.9
"""Twice the workers have to save a tenth of the time."""


@dataclass(frozen=True)
class Work:
    """What a training computes.

    Attributes
    ----------
    rows, epochs, batch_size : int
        Of the fit.
    multiply_adds : int
        Of the forward pass of one row.
    weights : int
        That are trained.
    """

    rows: int
    epochs: int
    batch_size: int
    multiply_adds: int
    weights: int


@dataclass(frozen=True)
class Room:
    """Where it can be computed.

    Attributes
    ----------
    slots, cores_per_slot : int
        Of the session.
    driver_cores : int
        Which one worker alone has, as it trains in the driver.
    one_machine : bool
        Whether the slots share the cores of the driver.
    """

    slots: int
    cores_per_slot: int
    driver_cores: int
    one_machine: bool


def choose_workers(work: Work, room: Room, backend: str | None) -> tuple[int, str]:
    """Return how many workers to train with, and why in words.

    Parameters
    ----------
    work : Work
        What to compute.
    room : Room
        Where.
    backend : str or None
        Of several workers.

    Examples
    --------
    >>> small = Work(rows=1_800, epochs=8, batch_size=64, multiply_adds=50_000, weights=50_000)
    >>> choose_workers(small, Room(8, 4, 4, False), "horovod")[0]
    1
    >>> large = Work(10_000_000, 10, 1024, 10_000_000, 1_000_000)
    >>> choose_workers(large, Room(8, 4, 4, False), "horovod")[0]
    8
    """
    if room.one_machine:
        return 1, "one worker, as all slots share the cores that it can use alone"
    if room.slots < 2:
        return 1, "one worker, as the session has one slot"
    most = max(1, min(room.slots, work.batch_size // _LEAST_ROWS))
    alone = best = _seconds(1, work, room, backend)
    chosen = 1
    for count in sorted({most, *(2**power for power in range(1, most.bit_length()))}):
        seconds = _seconds(count, work, room, backend)
        if count <= most and seconds < _WORTH * best:
            chosen, best = count, seconds
    told = f"about {about_text(alone)} of computing for one worker"
    if chosen == 1:
        return 1, f"one worker, as {told} does not pay for starting and synchronizing several"
    return (
        chosen,
        f"{chosen} of {room.slots} slots, as they make about {about_text(best)} of {told}",
    )


def _seconds(count: int, work: Work, room: Room, backend: str | None) -> float:
    """Of the training."""
    cores = room.driver_cores if count == 1 else count * room.cores_per_slot
    computing = computing_seconds(work.multiply_adds, work.rows * work.epochs, cores)
    if count == 1:
        return computing
    steps = work.epochs * -(-work.rows // work.batch_size)
    return _START_S + computing + steps * step_seconds(backend or "", count, 4 * work.weights)
