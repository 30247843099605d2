"""Ranks that average their gradients together."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.backends.allreduce.attendance import Attendance
from spark_dlobd.processes.versions import check_agreement


class RankGroup:
    """All ranks of a fit; what carries their tensors is a subclass's.

    Parameters
    ----------
    rank, size : int
        Who this is, of how many.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self.attendance = Attendance()

    def average_gradients(self, gradients: list[Any]) -> list[Any]:
        """Average over ranks in one fused operation."""
        if self.size == 1:
            return gradients
        return self.attendance.around(self._average, gradients)

    def _average(self, gradients: list[Any]) -> list[Any]:
        raise NotImplementedError

    def any_flag(self, flag: Any) -> Any:
        """Sum a small flag over ranks."""
        raise NotImplementedError

    def sum(self, array: NDArray[Any]) -> NDArray[Any]:
        """Sum over ranks."""
        raise NotImplementedError

    def gather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Stack over ranks."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave the others, when all have done their part."""

    def check_agreement(self, facts: dict[str, Any]) -> None:
        """Compare JSON-able facts of all ranks.

        Raises
        ------
        WorkersDisagreeError
            Naming each fact that differs with its value on every rank.
        """
        per_rank = [json.loads(text) for text in self._texts(json.dumps(facts).encode())]
        check_agreement(per_rank, "rank")

    def _texts(self, text: bytes) -> list[bytes]:
        """What every rank says, by rank."""
        lengths = self.gather(np.array(len(text), np.int64))
        padded = np.zeros(int(lengths.max()), np.uint8)
        padded[: len(text)] = np.frombuffer(text, np.uint8)
        rows = self.gather(padded)
        return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]
