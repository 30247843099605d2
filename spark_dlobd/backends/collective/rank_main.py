"""Program of one rank: ``rank_main PARENT_PID EVENTS_FD``. Runs on each worker."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from spark_dlobd.backends.allreduce.rank import Rank
from spark_dlobd.processes.child_program import run_child
from spark_dlobd.processes.failure import Cause

if TYPE_CHECKING:
    from spark_dlobd.backends.allreduce.group import RankGroup
    from spark_dlobd.backends.collective.config import CollectiveConfig


class CollectiveRank(Rank):
    """A rank of MPI, or of a ring of TensorFlow's servers."""

    alike = ("mpi4py",)

    def builds_first(self, config: CollectiveConfig) -> bool:
        """Whether nothing is lost by it: the ring throws away what was made before."""
        return config.transport == "mpi"

    def join(self, told: dict[str, Any], size: int, config: CollectiveConfig) -> RankGroup:
        """Find the others through MPI, or listen and know where the others do."""
        if config.transport == "mpi":
            from spark_dlobd.backends.collective.over_mpi import MpiGroup, join_mpi

            return MpiGroup(join_mpi(), config.compression)
        from spark_dlobd.backends.collective.ring import RingGroup, join_ring

        if size > 1:
            join_ring(told["rank"], told["peers"])
        timeout_s = config.operation_timeout_s
        return RingGroup(told["rank"], size, config.compression, timeout_s, config.nccl)


def cause_of(error: Exception) -> Cause | None:
    """The loss of another rank explains itself there."""
    if "tensorflow" not in sys.modules:
        return None
    import tensorflow as tf

    if type(error).__module__.startswith("mpi4py"):
        return "peer"
    lost = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    )
    text = str(error)
    of_ring = any(word in text for word in ("ollective", "gRPC server", "mpi4py"))
    return (
        "peer"
        if isinstance(error, lost) or (isinstance(error, tf.errors.OpError) and of_ring)
        else None
    )


def _leave(code: int) -> None:
    """End at once: TensorFlow's server has no shutdown and may wait for peers that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(run_child(CollectiveRank().run, cause_of))
