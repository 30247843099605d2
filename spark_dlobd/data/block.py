"""Rows of one or more steps, as a rank reads them."""

from __future__ import annotations

from dataclasses import dataclass

from spark_dlobd.data.window import Columns


@dataclass(frozen=True)
class Block:
    """Rows of whole steps.

    Attributes
    ----------
    arrays : tuple of numpy.ndarray
        One for each of `ColumnSpec.all`, of shape ``(rows, *shape)`` in the stored dtype.
    steps : int
        Number of steps; each has ``rows / steps`` rows.
    """

    arrays: Columns
    steps: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.arrays[0])
