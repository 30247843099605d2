"""Points over time in bounded memory. Pure."""

from __future__ import annotations

from collections.abc import Sequence

POINTS = 600


class Series:
    """At most `most` points: when it is full, neighbours are averaged and twice as wide.

    Parameters
    ----------
    fields : sequence of str
        Names of the values of a point; the first is its time.
    most : int, default 600
        Points kept, even.

    Examples
    --------
    >>> series = Series(["seconds", "load"], most=4)
    >>> for second in range(5):
    ...     series.add([second, 10 * second])
    >>> series.points
    [[0.5, 5.0], [2.5, 25.0], [4, 40]]
    """

    def __init__(self, fields: Sequence[str], most: int = POINTS) -> None:
        self.fields = list(fields)
        self._most = most
        self._width = 1
        self._points: list[list[float]] = []
        self._open: list[Sequence[float]] = []

    def add(self, point: Sequence[float]) -> None:
        """Append a point."""
        if len(self._points) == self._most and not self._open:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [_mean(pair) for pair in pairs]
            self._width *= 2
        self._open.append(point)
        if len(self._open) == self._width:
            self._points.append(_mean(self._open))
            self._open = []

    @property
    def points(self) -> list[list[float]]:
        """All points, the last one maybe narrower than the others."""
        rest = [_mean(self._open)] if self._open else []
        return [*self._points, *rest]

    def column(self, field: str) -> list[float]:
        """Values of one field."""
        index = self.fields.index(field)
        return [point[index] for point in self.points]


def _mean(points: Sequence[Sequence[float]]) -> list[float]:
    if len(points) == 1:
        return list(points[0])
    return [sum(values) / len(points) for values in zip(*points, strict=True)]
