"""Runs Spark jobs of a fit, listens to their tasks and explains what failed.

Runs on the driver.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from spark_dlobd.backends.shuffle.spark.events import EventStream
from spark_dlobd.backends.shuffle.spark.explain import StateLostOnHostError, explained
from spark_dlobd.backends.shuffle.wire.messages import Message, unpack
from spark_dlobd.errors import TrainingError, TrainingTimeoutError
from spark_dlobd.processes.events import Event, Failed
from spark_dlobd.processes.failure import Failure
from spark_dlobd.processes.spark_job import SparkJob

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

_POLL_S = 0.05


class JobRunner:
    """One job at a time.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
        Where.
    run_id : str
        Names the jobs' tag.
    events : EventStream
        What tasks tell.
    hear : callable
        Takes every event.
    """

    def __init__(
        self,
        spark: SparkSession,
        run_id: str,
        events: EventStream,
        hear: Callable[[Event], None],
    ) -> None:
        self._spark = spark
        self._tag = f"spark-dlobd-{run_id}"
        self._events = events
        self._hear = hear

    def run(
        self,
        action: Callable[[SparkContext], list[bytes]],
        description: str,
        timeout_s: float,
        alone: bool = False,
    ) -> list[Message]:
        """Run one job and return what its last stage sent.

        Parameters
        ----------
        action : callable
            Runs the Spark job.
        description : str
            What Spark's UI shows.
        timeout_s : float
            Longest silence of all tasks.

        alone : bool, optional
            As of `SparkJob`.

        Raises
        ------
        WorkerError
            A task told of an error that running it again would not cure.
        TrainingTimeoutError
            No task ended for `timeout_s`.
        JobLostError
            Spark gave the job up.
        """
        job = SparkJob(self._spark, action, self._tag, description, alone)
        failure = None
        # a job that was given up may have told more than the one failure that ended it
        self._events.clear()
        try:
            job.start()
            failure = self._listen(job, description, timeout_s)
        finally:
            # after a Ctrl-C, a timeout or a failure; nothing to cancel otherwise
            if job.is_running:
                job.cancel()
            job.join()
        received = [unpack(record) for record in job.rows if record]
        told = next((m.header for m in received if m.header["kind"] == "failed"), None)
        failure = failure or (None if told is None else Failure.from_json(told["failure"]))
        if failure is not None:
            raise error_of(failure)
        if job.error is not None:
            raise explained(job.error)
        return received

    def _listen(self, job: SparkJob, description: str, timeout_s: float) -> Failure | None:
        deadline = time.monotonic() + timeout_s
        while True:
            ended = not job.is_running
            event = self._events.next(0 if ended else _POLL_S)
            if event is None and ended:
                return None
            if event is not None:
                if isinstance(event, Failed):
                    return event.failure
                self._hear(event)
                deadline = time.monotonic() + timeout_s
            elif time.monotonic() > deadline:
                raise TrainingTimeoutError(
                    f"No task of '{description}' ended for {timeout_s:g} s. Is the cluster busy, "
                    "or a task stuck? Free slots, or raise progress_timeout_s (start_timeout_s "
                    "while workers start) of ShuffleConfig."
                )


def error_of(failure: Failure) -> TrainingError:
    """The exception for the driver: what was lost with a host may be computed again."""
    if failure.cause == "lost":
        return StateLostOnHostError(failure.message, where=(failure.rank, failure.host))
    return failure.error()
