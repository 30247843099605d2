"""What ``backend="auto"`` takes for several workers where Horovod is installed.

Runs on the driver. The seconds of computing are the same for both candidates, so only what
differs is predicted: start-up, and one synchronization a step.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spark_dlobd.backends.shuffle.backend import ShuffleConfig
from spark_dlobd.cost.cluster import probe_cluster
from spark_dlobd.cost.measured import ClusterCost
from spark_dlobd.cost.model import Way, allreduce_seconds, shuffle_step_seconds, way_of
from spark_dlobd.errors import ConfigurationError, TrainingError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.training.job import TrainJob

logger = logging.getLogger("spark_dlobd")

PROBE_TIMEOUT_S = 20.0

# Measured by benchmarks/explain.py with LeNet and two workers on two cores, in one run: until
# the first step, TensorFlow's import included.
START_S = {"horovod": 5.7, "shuffle": 8.0}


@dataclass(frozen=True)
class Compared:
    """Seconds that two backends add to the computing of one fit.

    Attributes
    ----------
    horovod_s, shuffle_s : float
        Start-up and synchronization of all epochs.
    """

    horovod_s: float
    shuffle_s: float

    @property
    def backend(self) -> str:
        """The cheaper one."""
        return "shuffle" if self.shuffle_s < self.horovod_s else "horovod"

    @property
    def reason(self) -> str:
        """Both numbers in words."""
        return (
            f"auto: start-up and synchronization of the whole fit are predicted to take "
            f"{self.horovod_s:.1f} s with horovod and {self.shuffle_s:.1f} s with shuffle"
        )


def compare(
    cluster: ClusterCost, workers: int, steps: int, weights: int, gradient_bytes: int
) -> Compared:
    """Predict what differs between Horovod and the shuffle. Pure.

    Parameters
    ----------
    cluster : ClusterCost
        What was probed.
    workers : int
        At least two.
    steps : int
        Of all epochs.
    weights, gradient_bytes : int
        Of the model.

    Examples
    --------
    >>> cluster = ClusterCost(2, 1, 2, 1, 0, 2, 1e-4, 1e9, 5e9, 0.03, 1e8, 0.1)
    >>> compare(cluster, 2, 1000, 431_080, 1_724_320).backend
    'horovod'
    """
    horovod, shuffle = _way("horovod"), _way("shuffle")
    each = allreduce_seconds(gradient_bytes, workers, cluster, horovod)
    stages = shuffle_step_seconds(4.0 * weights, workers, steps, cluster, shuffle)
    return Compared(
        START_S["horovod"] + steps * each,
        START_S["shuffle"] + steps * stages,
    )


def _way(name: str) -> Way:
    found = way_of(name)
    assert found is not None
    return found


def choose_by_cost(
    spark: SparkSession, job: TrainJob, steps: int, model_size: tuple[int, int]
) -> tuple[str, str]:
    """Name of the backend and why; Horovod if that cannot be predicted, saying so.

    Parameters
    ----------
    spark : SparkSession
        Where; its application is probed unless it was before.
    job : TrainJob
        Several workers.
    steps : int
        Of all epochs.
    model_size : tuple of (int, int)
        Trainable weights and bytes of their gradients.
    """
    rule = "auto: several workers, Horovod is installed"
    try:
        ShuffleConfig().create().check(spark, job)
    except ConfigurationError as error:
        return "horovod", f"{rule} and backend='shuffle' refuses this fit: {error}"
    workers = job.config.world_size
    try:
        cluster = probe_cluster(spark, workers, PROBE_TIMEOUT_S)
    except TrainingError as error:
        logger.warning("backend='auto' takes Horovod unseen, because the probe failed: %s", error)
        return "horovod", f"{rule}; nothing was predicted, because the probe failed: {error}"
    found = compare(cluster, workers, steps, *model_size)
    return found.backend, found.reason
