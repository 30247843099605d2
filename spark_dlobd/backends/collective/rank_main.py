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
    """A rank of a ring of TensorFlow's servers."""

    builds_first = False  # what is made before the ring may be lost with it

    def join(self, told: dict[str, Any], size: int, config: CollectiveConfig) -> RankGroup:
        """Listen, and know where the others do."""
        from spark_dlobd.backends.collective.group import RingGroup, join_ring

        if size > 1:
            join_ring(told["rank"], told["peers"])
        return RingGroup(told["rank"], size, config.compression, config.operation_timeout_s)


def cause_of(error: Exception) -> Cause | None:
    """The loss of another rank explains itself there."""
    if "tensorflow" not in sys.modules:
        return None
    import tensorflow as tf

    lost = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    )
    text = str(error)
    of_ring = "ollective" in text or "gRPC server" in text
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
