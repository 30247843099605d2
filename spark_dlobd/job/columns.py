"""Columns as tensors: names, types and shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

InvalidRows = Literal["error", "skip"]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Numpy dtype of this name, those of TensorFlow included (``"bfloat16"``)."""
    import ml_dtypes  # noqa: F401  # registers its types with numpy
    import numpy as np

    return np.dtype(name)


@dataclass(frozen=True)
class TensorColumn:
    """One DataFrame column as a fixed-shape tensor.

    Attributes
    ----------
    name : str
        The DataFrame column.
    dtype : str
        numpy dtype of one element as stored, e.g. ``"float32"`` or ``"uint8"``.
    shape : tuple of int
        Shape of one row, without the batch axis; ``()`` is a scalar.
    num_classes : int or None
        For labels of a classification: valid values are ``0 .. num_classes - 1``.
    takes : str or None
        For features: what the network takes, where that is not `dtype`.
    nested : bool
        Whether the rows are arrays of arrays, of this shape.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_classes: int | None = None
    takes: str | None = None
    nested: bool = False

    @property
    def size(self) -> int:
        """Number of elements of one row."""
        product = 1
        for extent in self.shape:
            product *= extent
        return product

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as stored."""
        return numpy_dtype(self.dtype).itemsize * self.size


@dataclass(frozen=True)
class ColumnSpec:
    """The columns a model is trained on."""

    features: TensorColumn
    label: TensorColumn
    weight: TensorColumn | None = None

    @property
    def all(self) -> tuple[TensorColumn, ...]:
        """Features, label and, where there is one, weight."""
        columns = (self.features, self.label)
        return columns if self.weight is None else (*columns, self.weight)
