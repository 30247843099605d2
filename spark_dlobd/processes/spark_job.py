"""A Spark job as something that can be watched and cancelled. Runs on the driver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from spark_dlobd.spark import in_spark_thread, spark_context

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

_LEAVE_WAIT_S = 10.0
_OF_THE_USER = ("spark.jobGroup.id", "spark.job.tags")


class SparkJob:
    """An action in a thread of its own, so the driver can watch and cancel.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
        Where.
    action : callable
        Takes the context, runs one Spark job and returns its records.
    tag : str
        Names the job for `cancel`.
    description : str, optional
        What Spark's UI shows.
    alone : bool, optional
        Whether it goes on when the user cancels the job group or tag of the fit, as what
        cleans up has to. Default False.
    """

    def __init__(
        self,
        spark: SparkSession,
        action: Callable[[SparkContext], list[bytes]],
        tag: str,
        description: str | None = None,
        alone: bool = False,
    ) -> None:
        self._context = spark_context(spark)
        self._tag = tag
        self._action = action
        self._description = description
        self._alone = alone
        self.rows: list[bytes] = []
        self.error: BaseException | None = None
        target = in_spark_thread(spark, self._run)
        self._thread = threading.Thread(target=target, name=tag, daemon=True)

    def _run(self) -> None:
        if self._alone:
            for name in _OF_THE_USER:
                self._context.setLocalProperty(name, None)  # type: ignore[arg-type]
        self._context.addJobTag(self._tag)
        if self._description is not None:
            self._context.setJobDescription(self._description)
        try:
            self.rows = self._action(self._context)
        except BaseException as error:  # handed to the driver's thread
            self.error = error
        finally:
            self._context.removeJobTag(self._tag)

    @property
    def is_running(self) -> bool:
        """Whether Spark still works on it."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Submit the job."""
        self._thread.start()

    def cancel(self) -> None:
        """Ask Spark to end its tasks."""
        self._context.cancelJobsWithTag(self._tag)

    def join(self, timeout_s: float = _LEAVE_WAIT_S) -> None:
        """Wait for its end, ten seconds unless said otherwise."""
        self._thread.join(timeout=timeout_s)


def barrier_stage(
    world_size: int, task: Callable[[Iterable[Any]], Iterable[bytes]]
) -> Callable[[SparkContext], list[bytes]]:
    """Return the action of one barrier stage with a task per rank."""

    def collect(context: SparkContext) -> list[bytes]:
        rdd = context.parallelize(range(world_size), world_size)
        return rdd.barrier().mapPartitions(task).collect()

    return collect
