"""Runs Spark jobs of a fit, listens to their tasks and explains what failed.

Runs on the driver.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spark_dlobd.backends.shuffle.events import EventStream
from spark_dlobd.backends.shuffle.explain import StateLostOnHostError, explained
from spark_dlobd.backends.shuffle.messages import Message, unpack
from spark_dlobd.backends.spark_job import SparkJob
from spark_dlobd.errors import (
    NonFiniteLossError,
    TrainingError,
    TrainingTimeoutError,
    WorkerError,
    WorkersDisagreeError,
)

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
        hear: Callable[[dict[str, Any]], None],
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
        until: Callable[[], bool] | None = None,
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

        Raises
        ------
        WorkerError
            A task told of an error that running it again would not cure.
        TrainingTimeoutError
            No task ended for `timeout_s`.
        JobLostError
            Spark gave the job up.
        """
        job = SparkJob(self._spark, action, self._tag, description)
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
        failure = failure or next(
            (m.header for m in received if m.header["kind"] == "failure"), None
        )
        if failure is not None:
            raise _error_of(failure)
        if job.error is not None:
            raise explained(job.error)
        return received

    def _listen(self, job: SparkJob, description: str, timeout_s: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + timeout_s
        while True:
            ended = not job.is_running
            event = self._events.next(0 if ended else _POLL_S)
            if event is None and ended:
                return None
            if event is not None:
                if event["kind"] == "failure":
                    return event
                self._hear(event)
                deadline = time.monotonic() + timeout_s
            elif time.monotonic() > deadline:
                raise TrainingTimeoutError(
                    f"No task of '{description}' ended for {timeout_s:g} s. Is the cluster busy, "
                    "or a task stuck? Free slots, or raise progress_timeout_s (start_timeout_s "
                    "while workers start) of ShuffleConfig."
                )


def _error_of(failure: dict[str, Any]) -> TrainingError:
    where = (failure["source"], failure["host"], failure["phase"])
    if failure["cause"] == "lost":
        return StateLostOnHostError(failure["message"], where=where[:2])
    if failure["cause"] == "nonfinite":
        return NonFiniteLossError(failure["message"], *where)
    if failure["type"] == "WorkersDisagreeError":
        return WorkersDisagreeError(failure["message"])
    return WorkerError(f"{failure['type']}: {failure['message']}", *where, failure["traceback"])
