"""What a column of one input is, where its type does not say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from spark_dlobd.conversion import choice, integer, text
from spark_dlobd.errors import ConfigurationError


@dataclass(frozen=True)
class InputColumn:
    """A column with what has to be known to make a tensor of it."""

    kind: ClassVar[str] = ""
    column: str

    def __post_init__(self) -> None:
        """Check the name of the column."""
        text(f"column of {type(self).__name__}")(self.column)

    def to_param(self) -> dict[str, Any]:
        """JSON-able form, as a Param keeps it."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class ImageColumn(InputColumn):
    """Images, encoded or as Spark reads them, resized to one size on the workers.

    Parameters
    ----------
    column : str
        Spark's ``image`` struct, or binary content of files (JPEG, PNG).
    size : tuple of int
        Height and width in pixels.
    channels : {1, 3, 4}, default 3
        Grey, colour, or colour with alpha.

    Examples
    --------
    >>> ImageColumn("photo", size=(224, 224)).to_param()
    {'kind': 'image', 'column': 'photo', 'size': (224, 224), 'channels': 3}
    """

    kind: ClassVar[str] = "image"
    size: tuple[int, int] = (0, 0)
    channels: int = 3

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        pair = tuple(self.size) if isinstance(self.size, (list, tuple)) else ()
        if len(pair) != 2:
            raise ConfigurationError(
                f"size of ImageColumn must be (height, width) in pixels. Got {self.size!r}."
            )
        height, width = (integer("size of ImageColumn", 1)(extent) for extent in pair)
        object.__setattr__(self, "size", (height, width))
        if self.channels not in (1, 3, 4):
            raise ConfigurationError(
                f"channels of ImageColumn must be 1, 3 or 4. Got {self.channels!r}."
            )


@dataclass(frozen=True)
class SequenceColumn(InputColumn):
    """Arrays of any length, padded or cut to one.

    Parameters
    ----------
    column : str
        An array of numbers or strings, or of arrays of equal length.
    length : int
        Steps of every row in the tensor.
    padding : float or str, default 0
        Stands where a row has fewer; ``keras.layers.Embedding(..., mask_zero=True)`` and
        ``keras.layers.Masking`` make a mask of it. 0 is the empty string among strings.
    align : {"start", "end"}, default "start"
        Where the row lies: at the start, with padding after it, or at the end. What is too
        long keeps its first or its last steps.

    Examples
    --------
    >>> SequenceColumn("tokens", length=128).padding
    0
    """

    kind: ClassVar[str] = "sequence"
    length: int = 0
    padding: float | str = 0
    align: str = "start"

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        object.__setattr__(self, "length", integer("length of SequenceColumn", 1)(self.length))
        if isinstance(self.padding, bool) or not isinstance(self.padding, (int, float, str)):
            raise ConfigurationError(
                f"padding of SequenceColumn must be a number or a str. Got {self.padding!r}."
            )
        choice("align of SequenceColumn", "start", "end")(self.align)


_KINDS: dict[str, type[InputColumn]] = {kind.kind: kind for kind in (ImageColumn, SequenceColumn)}


def input_column(param: Mapping[str, Any]) -> InputColumn:
    """Make an `InputColumn` of what `InputColumn.to_param` gave.

    Raises
    ------
    ConfigurationError
        It is of no known kind, or has other values.
    """
    values = dict(param)
    kind = values.pop("kind", None)
    if kind not in _KINDS:
        raise ConfigurationError(
            f"An input must be a column, a list of columns, or one of "
            f"{', '.join(sorted(each.__name__ for each in _KINDS.values()))}. Got {dict(param)!r}."
        )
    try:
        return _KINDS[kind](**values)
    except TypeError as error:
        raise ConfigurationError(f"{_KINDS[kind].__name__} has other values: {error}.") from error
