"""How many synchronizations go into one Spark job. Pure."""

from __future__ import annotations

_FIRST = 4
_MOST = 64
_WANTED_SECONDS = 5.0
_SHUFFLE_BYTES = 2 << 30


class JobLength:
    """Jobs of some seconds, with shuffle files of at most 2 GiB an executor.

    Parameters
    ----------
    fixed : int or None
        What the user wants; None measures.
    bytes_each : int
        Bytes that one worker writes in one synchronization.
    """

    def __init__(self, fixed: int | None, bytes_each: int) -> None:
        self._fixed = fixed
        self._most = max(1, min(_MOST, _SHUFFLE_BYTES // max(bytes_each, 1)))
        self._next = min(_FIRST, self._most)

    @property
    def next(self) -> int:
        """Synchronizations of the next job."""
        return self._fixed or self._next

    def took(self, seconds: float, synchronizations: int) -> None:
        """Learn from a job."""
        wanted = round(_WANTED_SECONDS * synchronizations / seconds)
        # of few lengths, so that a job that was prepared with the last one fits
        longest = 2 ** max(0, wanted.bit_length() - 1)
        self._next = max(1, min(self._most, 4 * self._next, longest))
