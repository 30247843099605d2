"""A barrier stage as something that can be watched and cancelled. Runs on the driver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from spark_dlobd.spark import spark_context

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_LEAVE_WAIT_S = 10.0


class SparkJob:
    """The barrier stage in a thread of its own, so the driver can watch and cancel."""

    def __init__(
        self,
        spark: SparkSession,
        world_size: int,
        task: Callable[[Iterable[Any]], Iterable[bytes]],
        tag: str,
    ) -> None:
        from pyspark import inheritable_thread_target

        self._context = spark_context(spark)
        self._tag = tag
        self._world_size = world_size
        self._task = task
        self.rows: list[bytes] = []
        self.error: BaseException | None = None
        target = inheritable_thread_target(spark)(self._collect)
        self._thread = threading.Thread(target=target, name=tag, daemon=True)

    def _collect(self) -> None:
        self._context.addJobTag(self._tag)
        try:
            rdd = self._context.parallelize(range(self._world_size), self._world_size)
            self.rows = rdd.barrier().mapPartitions(self._task).collect()
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

    def join(self) -> None:
        """Wait ten seconds for its end."""
        self._thread.join(timeout=_LEAVE_WAIT_S)
