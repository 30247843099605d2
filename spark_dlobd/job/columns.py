"""Columns as tensors: names, types and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from spark_dlobd.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np

InvalidRows = Literal["error", "skip"]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Numpy dtype of this name, those of TensorFlow included (``"bfloat16"``, ``"string"``)."""
    import ml_dtypes  # noqa: F401  # registers its types with numpy
    import numpy as np

    if name == "string":
        return np.dtype(object)

    return np.dtype(name)


Role = Literal["features", "label", "weight"]
Kind = Literal["one", "list", "dict"]
Stored = Literal["tensor", "text", "image", "vector"]
_TEXT_BYTES = 64


class Piece(NamedTuple):
    """A DataFrame column of `width` elements that stands beside others in one tensor."""

    name: str
    width: int


class Padding(NamedTuple):
    """How rows with fewer or more steps than the tensor has are made to fit."""

    value: float | str
    align: str


@dataclass(frozen=True)
class TensorColumn:
    """One or more DataFrame columns as a fixed-shape tensor.

    Attributes
    ----------
    name : str
        The DataFrame column, or what several of them are called together.
    dtype : str
        numpy dtype of one element as stored, e.g. ``"float32"`` or ``"uint8"``.
    shape : tuple of int
        Shape of one row, without the batch axis; ``()`` is a scalar.
    num_classes : int or None
        For labels of a classification: valid values are ``0 .. num_classes - 1``.
    flags : bool
        For labels of a multi-label classification: each element is 0 or 1, not a class.
    takes : str or None
        For features: what the network takes, where that is not `dtype`.
    nested : bool
        Whether the rows are arrays of arrays, of this shape.
    part : str
        Name of the network's input or output that it belongs to; empty where there is one.
    beside : tuple of Piece
        The DataFrame columns that stand side by side in it, where there are several.
    stored : {"tensor", "text", "image", "vector"}
        In which form a row lies on disk: as the tensor itself, or as bytes of any length
        (`spark_dlobd.data.decode`).
    padding : Padding or None
        For arrays of any length, which are padded or cut to the first extent of `shape`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_classes: int | None = None
    takes: str | None = None
    nested: bool = False
    part: str = ""
    beside: tuple[Piece, ...] = ()
    stored: Stored = "tensor"
    flags: bool = False
    padding: Padding | None = None

    @property
    def step_size(self) -> int:
        """Number of elements of one step of a sequence."""
        return self.size // self.shape[0]

    @property
    def size(self) -> int:
        """Number of elements of one row."""
        product = 1
        for extent in self.shape:
            product *= extent
        return product

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as a tensor; of strings about."""
        return (
            _TEXT_BYTES if self.dtype == "string" else numpy_dtype(self.dtype).itemsize
        ) * self.size

    @property
    def sources(self) -> tuple[str, ...]:
        """The DataFrame columns."""
        return tuple(piece.name for piece in self.beside) or (self.name,)

    def source_of(self, element: int) -> str:
        """The DataFrame column that an element of a row comes from."""
        for piece in self.beside:
            if element < piece.width:
                return piece.name
            element -= piece.width
        return self.name

    @property
    def network_dtype(self) -> str:
        """Type in which the network gets it."""
        return self.takes or self.dtype


@dataclass(frozen=True)
class Structure:
    """How a network takes or gives its tensors: one, several in order, or several by name.

    Attributes
    ----------
    kind : {"one", "list", "dict"}
        Which of these.
    names : tuple of str
        Of each tensor, in the network's order; a single one has none.

    Examples
    --------
    >>> Structure("list", ("a", "b")).packed({"a": 1})
    (1, None)
    """

    kind: Kind = "one"
    names: tuple[str, ...] = ("",)

    def packed(self, parts: Mapping[str, Any]) -> Any:
        """Tensors by name, as Keras wants them; None in the place of one that is not given."""
        if self.kind == "one":
            return parts[self.names[0]]
        found = {name: parts.get(name) for name in self.names}
        return found if self.kind == "dict" else tuple(found.values())

    def unpacked(self, tensors: Any) -> dict[str, Any]:
        """Tensors by name of what `packed` gives.

        Raises
        ------
        ConfigurationError
            If they are not packed like that.

        Examples
        --------
        >>> Structure("list", ("a", "b")).unpacked((1, None))
        {'a': 1, 'b': None}
        """
        if self.kind == "one":
            return {self.names[0]: tensors}
        if self.kind == "dict" and isinstance(tensors, Mapping):
            if set(tensors) == set(self.names):
                return dict(tensors)
        elif isinstance(tensors, (list, tuple)) and len(tensors) == len(self.names):
            return dict(zip(self.names, tensors, strict=True))
        form = "dict of" if self.kind == "dict" else "tuple, in this order, of"
        raise ConfigurationError(
            f"Expected a {form} {', '.join(map(repr, self.names))}. Got {_said(tensors)}."
        )


def _said(tensors: Any) -> str:
    kind = type(tensors).__name__
    if isinstance(tensors, Mapping):
        return f"a {kind} of {', '.join(map(repr, tensors))}"
    if isinstance(tensors, (list, tuple)):
        return f"a {kind} of {len(tensors)}"
    return f"a value of type {kind}"


@dataclass(frozen=True)
class ColumnSpec:
    """The columns a model is trained on.

    Attributes
    ----------
    inputs : tuple of TensorColumn
        One for each input of the network, in its order.
    labels : tuple of TensorColumn
        One for each output that has a loss, in the order of outputs.
    weights : tuple of TensorColumn
        None, one for all outputs, or one for each output that has one.
    x, y : Structure
        How the network takes inputs and gives outputs.
    """

    inputs: tuple[TensorColumn, ...]
    labels: tuple[TensorColumn, ...]
    weights: tuple[TensorColumn, ...] = ()
    x: Structure = Structure()
    y: Structure = Structure()

    @classmethod
    def of(
        cls, features: TensorColumn, label: TensorColumn, weight: TensorColumn | None = None
    ) -> ColumnSpec:
        """Columns of a network with one input and one output."""
        return cls((features,), (label,), () if weight is None else (weight,))

    @property
    def all(self) -> tuple[TensorColumn, ...]:
        """Inputs, labels and weights."""
        return (*self.inputs, *self.labels, *self.weights)

    @property
    def roles(self) -> tuple[Role, ...]:
        """What each of `all` is for."""
        counts: dict[Role, int] = {
            "features": len(self.inputs),
            "label": len(self.labels),
            "weight": len(self.weights),
        }
        return tuple(role for role, count in counts.items() for _ in range(count))

    @property
    def stored_names(self) -> tuple[str, ...]:
        """Names of the stored columns, in the order of `all`.

        Examples
        --------
        >>> x, y = TensorColumn("x", "float32", (4,)), TensorColumn("y", "float32", ())
        >>> ColumnSpec((x, x), (y,)).stored_names
        ('features', 'features_1', 'label')
        """
        groups = (self.inputs, self.labels, self.weights)
        names = zip(("features", "label", "weight"), groups, strict=True)
        return tuple(
            f"{name}_{i}" if i else name for name, group in names for i in range(len(group))
        )

    @property
    def ragged_names(self) -> tuple[str, ...]:
        """Names of the stored columns whose rows have bytes of any length."""
        pairs = zip(self.stored_names, self.all, strict=True)
        return tuple(name for name, column in pairs if column.stored != "tensor")

    def stored_name(self, column: TensorColumn) -> str:
        """Name of one stored column; one that serves twice is stored twice, alike."""
        return self.stored_names[self.all.index(column)]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as stored."""
        return sum(column.row_bytes for column in self.all)

    @property
    def as_taken(self) -> ColumnSpec:
        """The same columns, with inputs in the types that the network takes."""
        inputs = (replace(one, dtype=one.network_dtype, takes=None) for one in self.inputs)
        return replace(self, inputs=tuple(inputs))

    def packed(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """Tensors in the order of `all` as Keras takes them.

        Returns
        -------
        tuple
            ``(x, y)``, or ``(x, y, sample_weight)`` where there are weights.

        Examples
        --------
        >>> x, y = TensorColumn("x", "float32", (4,)), TensorColumn("y", "float32", ())
        >>> ColumnSpec.of(x, y).packed([1, 2])
        (1, 2)
        """
        first, last = len(self.inputs), len(self.inputs) + len(self.labels)
        x = self.x.packed(_by_part(self.inputs, tensors[:first]))
        y = self.y.packed(_by_part(self.labels, tensors[first:last]))
        if not self.weights:
            return x, y
        if not self.weights[0].part:
            return x, y, tensors[last]
        return x, y, self.y.packed(_by_part(self.weights, tensors[last:]))


def _by_part(columns: Sequence[TensorColumn], tensors: Sequence[Any]) -> dict[str, Any]:
    return {column.part: tensor for column, tensor in zip(columns, tensors, strict=True)}
