"""Program of a rank that times averages instead of training: ``allreduce_rank PARENT_PID FD``."""

from __future__ import annotations

import os
import statistics
import sys
import time
from typing import Any

from spark_dlobd.backends.collective.rank_main import CollectiveRank
from spark_dlobd.backends.horovod.rank_main import HorovodRank
from spark_dlobd.job.train_job import TrainResult
from spark_dlobd.processes.child_program import run_child
from spark_dlobd.processes.events import Met

SIZES = {"4 KB": 1_000, "1.7 MB": 431_080, "28 MB": 7_000_000, "100 MB": 25_000_000}
_ROUNDS = 30
_WARM_UP = 5


def milliseconds(group: Any) -> dict[str, tuple[float, float]]:
    """Median and nine-tenths of an average of float32 by its size."""
    import tensorflow as tf

    found = {}
    for name, count in SIZES.items():
        gradient = tf.random.stateless_uniform([count], seed=[1, group.rank])

        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def average(gradient: Any) -> Any:
            return group.average_gradients([gradient])[0]

        seconds = []
        for _ in range(_WARM_UP + _ROUNDS):
            began = time.perf_counter()
            average(gradient).numpy()
            seconds.append(time.perf_counter() - began)
        ordered = sorted(1e3 * each for each in seconds[_WARM_UP:])
        nine_tenths = ordered[int(0.9 * len(ordered))]
        found[name] = (round(statistics.median(ordered), 2), round(nine_tenths, 2))
    return found


class _Timed:
    def _train(
        self, model: Any, job: Any, data: Any, config: Any, group: Any, parent: Any
    ) -> tuple[TrainResult, float]:
        from spark_dlobd.training import keras_codec

        parent.tell(Met())
        joined = time.monotonic()
        report = {
            "allreduce_ms": milliseconds(group),
            "trainable_weights": 1,
            "gradient_bytes": 4,
        }
        group.close()
        return TrainResult(keras_codec.model_to_archive(model), {}, report), joined


class TimedHorovod(_Timed, HorovodRank):
    """A rank of Horovod."""


class TimedCollective(_Timed, CollectiveRank):
    """A rank of MPI or of the ring."""


class EitherRank:
    """The rank that the config of the job asks for."""

    def run(self, parent: Any) -> None:
        """Time the averages of one rank."""
        kind = TimedHorovod if os.environ["ALLREDUCE_OF"] == "horovod" else TimedCollective
        kind().run(parent)


if __name__ == "__main__":
    sys.exit(run_child(EitherRank().run))
