"""How one flat vector of parameters is cut into slices, one per owner.

The vector is the concatenation of the flattened trainable variables. The cut is
that of BigDL's ``AllReduceParameter`` (Dai et al., "BigDL: A Distributed Deep
Learning Framework for Big Data", SoCC 2019).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.errors import ConfigurationError

_ALIGNMENT_BYTES = 64


@dataclass(frozen=True)
class Segment:
    """Elements ``start`` to ``stop`` of one flattened trainable variable.

    Parameters
    ----------
    variable : int
        Index of the variable.
    start, stop : int
        Range of elements, `stop` excluded; never empty.
    """

    variable: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start


@dataclass(frozen=True)
class SlicePlan:
    """Which elements of which variables every slice holds.

    Slices are contiguous ranges of the flat vector, in order. A slice may be
    empty: with fewer elements than slices, or fewer variables than slices where
    only whole variables may be cut off.

    Parameters
    ----------
    sizes : tuple of int
        Elements of each trainable variable.
    slices : tuple of tuple of Segment
        The segments of each slice.
    whole_variables : bool, default False
        Whether cuts fall only between variables.

    Examples
    --------
    >>> plan = SlicePlan.of([6, 1], count=2)
    >>> plan.lengths
    (4, 3)
    >>> plan.slices[1]
    (Segment(variable=0, start=4, stop=6), Segment(variable=1, start=0, stop=1))
    """

    sizes: tuple[int, ...]
    slices: tuple[tuple[Segment, ...], ...]
    whole_variables: bool = False

    @classmethod
    def of(cls, sizes: Sequence[int], count: int, whole_variables: bool = False) -> SlicePlan:
        """Cut variables of `sizes` elements into `count` slices.

        Parameters
        ----------
        sizes : sequence of int
            Elements of each trainable variable.
        count : int
            Number of slices, at least 1.
        whole_variables : bool, default False
            If False, slice n of K elements starts at ``n*(K//N) + min(n, K%N)``, so
            lengths differ by one at most. If True, cuts fall only between
            variables, so that the longest slice is as short as it can be.

        Raises
        ------
        ConfigurationError
            If `count` is below 1 or a size is negative.
        """
        sizes = tuple(int(size) for size in sizes)
        if count < 1 or any(size < 0 for size in sizes):
            raise ConfigurationError(
                f"A plan needs at least 1 slice and sizes of at least 0. Got count={count}, "
                f"sizes={sizes}."
            )
        cuts = _cuts_between(sizes, count) if whole_variables else _even_cuts(sum(sizes), count)
        slices = tuple(_segments(sizes, start, stop) for start, stop in itertools.pairwise(cuts))
        return cls(sizes, slices, whole_variables)

    @property
    def count(self) -> int:
        """Number of slices."""
        return len(self.slices)

    @property
    def total(self) -> int:
        """Number of elements of the flat vector."""
        return self.offsets[-1]

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each variable starts in the flat vector, and the total at the end."""
        return (0, *itertools.accumulate(self.sizes))

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Elements of each slice."""
        return tuple(sum(segment.size for segment in one) for one in self.slices)

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        return (0, *itertools.accumulate(self.lengths))

    def bounds(self, number: int) -> tuple[int, int]:
        """Range ``(start, stop)`` of slice `number` in the flat vector."""
        return self._starts[number], self._starts[number + 1]

    def cut(self, flat: NDArray[Any]) -> list[NDArray[Any]]:
        """Views of the slices of a flat vector, shape ``(total,)``; nothing is copied."""
        self._check(flat)
        return [flat[start:stop] for start, stop in itertools.pairwise(self._starts)]

    def variables(self, flat: NDArray[Any]) -> list[NDArray[Any]]:
        """Views of the variables of a flat vector, each one-dimensional; nothing is copied."""
        self._check(flat)
        return [flat[start:stop] for start, stop in itertools.pairwise(self.offsets)]

    def _check(self, flat: NDArray[Any]) -> None:
        if flat.shape != (self.total,):
            raise ConfigurationError(
                f"The flat vector of this plan has shape ({self.total},). Got {flat.shape}."
            )


def empty_aligned(size: int) -> NDArray[np.float32]:
    """Uninitialized float32 vector that TensorFlow takes without a copy.

    The update of a slice reads its gradient in place when the memory starts at a
    multiple of 64 bytes, which `numpy.empty` does not promise.
    """
    raw = np.empty(4 * size + _ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT_BYTES
    return raw[start : start + 4 * size].view(np.float32)


def is_aligned(array: NDArray[Any]) -> bool:
    """Whether TensorFlow can read `array` in place."""
    starts_well = array.size == 0 or array.ctypes.data % _ALIGNMENT_BYTES == 0
    return starts_well and array.flags.c_contiguous


def _even_cuts(total: int, count: int) -> list[int]:
    length, longer = divmod(total, count)
    return [n * length + min(n, longer) for n in range(count + 1)]


def _cuts_between(sizes: tuple[int, ...], count: int) -> list[int]:
    """Cuts between variables that make the longest slice as short as possible."""
    low, high = max(sizes, default=0), sum(sizes)
    while low < high:
        limit = (low + high) // 2
        if len(_filled(sizes, limit)) <= count:
            high = limit
        else:
            low = limit + 1
    lengths = _filled(sizes, high)
    lengths += [0] * (count - len(lengths))
    return [0, *itertools.accumulate(lengths)]


def _filled(sizes: tuple[int, ...], limit: int) -> list[int]:
    """Lengths of slices filled in order with variables up to `limit` elements."""
    lengths = [0]
    for size in sizes:
        if lengths[-1] + size > limit:
            lengths.append(0)
        lengths[-1] += size
    return lengths


def _segments(sizes: tuple[int, ...], start: int, stop: int) -> tuple[Segment, ...]:
    found = []
    offset = 0
    for variable, size in enumerate(sizes):
        first, last = max(start - offset, 0), min(stop - offset, size)
        if first < last:
            found.append(Segment(variable, first, last))
        offset += size
    return tuple(found)
