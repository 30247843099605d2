"""Allreduce with TensorFlow's own collectives. Runs on the driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from spark_dlobd.backends.allreduce.backend import AllreduceBackend

if TYPE_CHECKING:
    from spark_dlobd.backends.allreduce.task import RankTask


class CollectiveBackend(AllreduceBackend):
    """TensorFlow's ring over gRPC."""

    name: ClassVar[str] = "collective"
    program = "spark_dlobd.backends.collective.rank_main"

    @property
    def rank_task(self) -> type[RankTask]:
        """What runs in a barrier task."""
        from spark_dlobd.backends.collective.task import CollectiveTask

        return CollectiveTask

    def transport(self, log_lines: Sequence[str]) -> str:
        """What carried the gradients."""
        return "ring: grpc over tcp"
