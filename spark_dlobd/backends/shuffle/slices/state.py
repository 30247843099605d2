"""What a worker and an owner of a slice have to keep from one step to the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.backends.shuffle.wire.messages import Message, numbered

Array = NDArray[np.float32]


@dataclass(frozen=True)
class WorkerState:
    """Of the rank of a partition.

    Attributes
    ----------
    variables : list of numpy.ndarray
        Values of `Replica.carried`: statistics, random state, metrics.
    residual : numpy.ndarray or None
        What rounding took from the last gradient.
    """

    variables: list[NDArray[Any]]
    residual: Array | None = None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays of a message."""
        found = numbered("worker", self.variables)
        return found if self.residual is None else {**found, "residual": self.residual}

    @classmethod
    def of(cls, message: Message) -> WorkerState:
        """Read what `arrays` named."""
        return cls(message.group("worker"), message.arrays.get("residual"))


@dataclass(frozen=True)
class SliceState:
    """Of the slice of a partition.

    Attributes
    ----------
    weights : numpy.ndarray
        fp32, whatever travels.
    optimizer : list of numpy.ndarray
        State of the slice's optimizer.
    """

    weights: Array
    optimizer: list[NDArray[Any]] = field(default_factory=list)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays of a message."""
        return {"master": self.weights, **numbered("optimizer", self.optimizer)}

    @classmethod
    def of(cls, message: Message) -> SliceState | None:
        """Read what `arrays` named, if it is there."""
        if "master" not in message.arrays:
            return None
        return cls(message.arrays["master"], message.group("optimizer"))
