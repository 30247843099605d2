"""Program of one Horovod rank: ``rank_main PARENT_PID EVENTS_FD``. Runs on each worker."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from spark_dlobd.backends.allreduce.rank import Rank
from spark_dlobd.processes.child_program import run_child

if TYPE_CHECKING:
    from spark_dlobd.backends.allreduce.group import RankGroup
    from spark_dlobd.backends.horovod.config import HorovodConfig


class HorovodRank(Rank):
    """A rank that Horovod joins to the others."""

    alike = ("horovod",)

    def import_more(self) -> None:
        """Import Horovod while the tasks still meet."""
        import horovod.tensorflow  # noqa: F401

    def join(self, told: dict[str, Any], size: int, config: HorovodConfig) -> RankGroup:
        """Become the rank that the barrier says."""
        import horovod.tensorflow as hvd

        from spark_dlobd.backends.horovod.group import HorovodGroup

        hvd.init()
        rank = told["rank"]
        if hvd.rank() != rank or hvd.size() != size:
            raise RuntimeError(
                f"Horovod says rank {hvd.rank()} of {hvd.size()}, the barrier says {rank} of {size}"
            )
        return HorovodGroup(config.compression)


if __name__ == "__main__":
    sys.exit(run_child(HorovodRank().run))
