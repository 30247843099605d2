"""What tasks tell the driver when they end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spark_dlobd.processes.events import Event


@dataclass(frozen=True)
class WarmedUp(Event):
    """A worker has built its model."""

    rank: int


@dataclass(frozen=True)
class Worked(Event):
    """A task has done its part of a step.

    Attributes
    ----------
    rank, epoch, step : int
        Whose, and of which step.
    seconds : dict of str to float
        Of each phase of the task.
    """

    rank: int
    epoch: int
    step: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class GradientSent(Worked):
    """A worker has computed and sent the gradient of a step, or of several.

    Attributes
    ----------
    logs : list of dict
        Metrics of each of the steps.
    rows : int
        That it has read.
    measured : dict
        As `spark_dlobd.report.observed.Observed.measured` wants it.
    """

    logs: list[dict[str, float]]
    rows: int
    measured: dict[str, Any]


@dataclass(frozen=True)
class SliceUpdated(Worked):
    """The owner of a slice has updated its weights.

    Attributes
    ----------
    folder : str
        Where it keeps slices on its host.
    """

    folder: str
