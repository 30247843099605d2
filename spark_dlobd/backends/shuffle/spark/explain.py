"""Why Spark gave a job up, in words of the user, and whether to run it again.

Runs on the driver.
"""

from __future__ import annotations

import re

from spark_dlobd.backends.gang import unexplained_error
from spark_dlobd.errors import TrainingError, WorkerError, WorkerLostError
from spark_dlobd.processes.worker_interpreter import worker_problem

_KEPT_LINES = 40
# Spark tries four times; a whole job again would fill the disk again
_FULL_DISK = "No space left on device"
_LOST_TASK = re.compile(r"Lost task (\d+)\.\d+ in stage \S+ \(TID \d+\) \((\S+) executor \S+\)")
_MISSING = re.compile(r"ModuleNotFoundError: (No module named '[^']+')")
_OF_THE_HOST = re.compile(r"\[Errno \d+\]|(OS|IO|EOF|Timeout|Connection)Error:")


class JobLostError(TrainingError):
    """A Spark job failed for reasons that are not the user's.

    Parameters
    ----------
    reason : str
        What happened and what may help.
    spark_says : str
        Spark's own text.
    where : tuple of (int, str), optional
        Rank and host, if one failed.
    killed : bool
        Whether a process was killed.
    repeatable : bool
        Whether the job may be run again.
    """

    def __init__(
        self,
        reason: str,
        spark_says: str = "",
        where: tuple[int, str] | None = None,
        killed: bool = False,
        repeatable: bool = True,
    ) -> None:
        self.reason = reason
        self.spark_says = spark_says
        self.where = where
        self.killed = killed
        self.repeatable = repeatable
        at = f"Rank {where[0]} on {where[1]}: " if where else ""
        super().__init__(f"{at}{reason}{spark_says}")

    def final(self, phase: str, restarts: int) -> TrainingError:
        """Make the error of a fit that may not be run again."""
        text = self.reason
        if self.repeatable:
            text += f" max_restarts={restarts} of ShuffleConfig are used up."
        if self.where is None:
            return TrainingError(f"{text}{self.spark_says}")
        kind = WorkerLostError if self.killed else WorkerError
        return kind(f"{text}{self.spark_says}", *self.where, phase)


class StateLostOnHostError(JobLostError):
    """The state of a slice is not on the host that needs it."""


def explained(error: BaseException) -> TrainingError:
    """Make the error of a job that Spark ended; a `JobLostError` if it may be run again."""
    text = str(error).split("\n\nDriver stacktrace:")[0].strip()
    if "cancelled" in text:
        return unexplained_error(error)
    spark_says = "\n".join(["", "Spark says:", *text.splitlines()[:_KEPT_LINES]])
    if problem := worker_problem(text):
        return TrainingError(f"{problem}{spark_says}")
    if missing := _MISSING.search(text):
        return TrainingError(
            f"Executors cannot load what they are to run: {missing[1]}. Install the same packages "
            f"there as on the driver.{spark_says}"
        )
    reason = _reason(text)
    if reason is None and "PythonException" in text:
        if not _OF_THE_HOST.search(text):
            return TrainingError(f"A task failed unexpectedly.{spark_says}")
        reason = "A worker could not read or write a file, or a connection broke."
    found = _LOST_TASK.search(text)
    where = (int(found[1]), found[2]) if found else None
    return JobLostError(
        reason or "Spark gave up a job of this fit.",
        spark_says,
        where,
        killed=reason is not None and "killed" in reason,
        repeatable=_FULL_DISK not in text,
    )


def _reason(text: str) -> str | None:
    if _FULL_DISK in text and "checkpoint.py" in text:
        return f"{_FULL_DISK} in the cache directory. Free some, or set cacheDir."
    if _FULL_DISK in text:
        return (
            f"{_FULL_DISK} where executors keep shuffle files. Free some, set "
            "spark.local.dir to a larger disk, or lower iterations_per_job of ShuffleConfig: the "
            "files are deleted after every job."
        )
    if "Python worker exited unexpectedly" in text:
        return (
            "The Python worker was killed again and again, often for memory: raise "
            "spark.executor.memoryOverhead or lower batchSize."
        )
    if "ExecutorLostFailure" in text:
        return (
            "The executor was killed again and again, often for memory: raise "
            "spark.executor.memory or spark.executor.memoryOverhead."
        )
    if "FetchFailed" in text:
        return "Shuffle files were lost again and again: executors or their disks go away."
    return None
