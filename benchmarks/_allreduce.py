"""The backends of the benchmark `allreduce`: their ranks time averages instead of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spark_dlobd import CollectiveConfig, HorovodConfig
from spark_dlobd.backends.collective.backend import CollectiveBackend
from spark_dlobd.backends.horovod.backend import HorovodBackend

_PROGRAM = "benchmarks.allreduce_rank"


class TimedHorovod(HorovodBackend):
    """Horovod whose ranks time averages."""

    program = _PROGRAM


class TimedCollective(CollectiveBackend):
    """MPI or the ring, whose ranks time averages."""

    program = _PROGRAM


@dataclass(frozen=True)
class TimedHorovodConfig(HorovodConfig):
    """Options of Horovod."""

    backend_class: ClassVar[str] = "benchmarks._allreduce:TimedHorovod"


@dataclass(frozen=True)
class TimedCollectiveConfig(CollectiveConfig):
    """Options of MPI or the ring."""

    backend_class: ClassVar[str] = "benchmarks._allreduce:TimedCollective"
