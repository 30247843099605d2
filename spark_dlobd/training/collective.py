"""What the training loop needs from a group of ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Collective(Protocol):
    """A group of ranks that train one model together."""

    rank: int
    size: int

    def average_gradients(self, gradients: list[Any]) -> list[Any]:
        """Return the mean over ranks of each gradient; runs inside the step's graph."""

    def any_flag(self, flag: Any) -> Any:
        """Return whether the scalar is nonzero on any rank; inside the step's graph."""

    def sum(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the elementwise sum over ranks; called eagerly by every rank."""

    def gather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the arrays of all ranks stacked along a new first axis."""


class SingleProcess:
    """The group of one."""

    rank = 0
    size = 1

    def average_gradients(self, gradients: list[Any]) -> list[Any]:
        """Return the gradients as they are."""
        return gradients

    def any_flag(self, flag: Any) -> Any:
        """Return the flag as it is."""
        return flag

    def sum(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array as it is."""
        return array

    def gather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array with a first axis of one."""
        return array[None]
