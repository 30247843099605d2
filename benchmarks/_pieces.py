"""The backend of the benchmark `collective_pieces`: its ranks time steps instead of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spark_dlobd import CollectiveConfig
from spark_dlobd.backends.collective.backend import CollectiveBackend


class Pieces(CollectiveBackend):
    """Ranks that time steps instead of training."""

    program = "benchmarks.collective_pieces_rank"


@dataclass(frozen=True)
class PiecesConfig(CollectiveConfig):
    """Options of MPI."""

    backend_class: ClassVar[str] = "benchmarks._pieces:Pieces"
