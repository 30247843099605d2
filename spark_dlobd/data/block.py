"""Rows of one or more steps, as a rank reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from spark_dlobd.data.window import Columns


@dataclass(frozen=True)
class Block:
    """Rows of whole steps.

    Attributes
    ----------
    features : numpy.ndarray
        Shape ``(rows, *shape)`` in the stored dtype.
    label : numpy.ndarray
        Shape ``(rows, *label_shape)``.
    weight : numpy.ndarray or None
        Shape ``(rows,)``, float32.
    steps : int
        Number of steps; each has ``rows / steps`` rows.
    """

    features: NDArray[Any]
    label: NDArray[Any]
    weight: NDArray[Any] | None
    steps: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.label)

    @property
    def arrays(self) -> Columns:
        """Features, label and, where there is one, weight."""
        columns = (self.features, self.label)
        return columns if self.weight is None else (*columns, self.weight)
