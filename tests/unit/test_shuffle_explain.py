"""What users read when Spark gives a job of the shuffle backend up."""

from __future__ import annotations

import pytest

from spark_dlobd.backends.shuffle.spark.explain import JobLostError, StateLostOnHostError, explained
from spark_dlobd.errors import TrainingError, WorkerError, WorkerLostError

ABORTED = (
    "An error occurred while calling z:org.apache.spark.api.python.PythonRDD.collectAndServe.\n"
    ": org.apache.spark.SparkException: Job aborted due to stage failure: Task 1 in stage 9.0 "
    "failed 4 times, most recent failure: Lost task 1.3 in stage 9.0 (TID 30) (10.0.0.7 executor "
    "0): {cause}\n\tat org.apache.spark.executor.Executor.run(Executor.scala:1)\n\n"
    "Driver stacktrace:\n\tat org.apache.spark.scheduler.DAGScheduler.failJobAndIndependentStages"
)


def lost(cause: str) -> JobLostError:
    error = explained(RuntimeError(ABORTED.format(cause=cause)))
    assert isinstance(error, JobLostError)
    return error


@pytest.mark.parametrize(
    ("cause", "said", "kind"),
    [
        ("java.io.IOException: No space left on device", "spark.local.dir", WorkerError),
        (
            'org.apache.spark.api.python.PythonException: Traceback:\n  File "/x/checkpoint.py"\n'
            "OSError: [Errno 28] No space left on device",
            "in the cache directory",
            WorkerError,
        ),
        (
            "org.apache.spark.SparkException: Python worker exited unexpectedly (crashed)",
            "The Python worker was killed",
            WorkerLostError,
        ),
        (
            "ExecutorLostFailure (executor 0 exited caused by one of the running tasks)",
            "The executor was killed",
            WorkerLostError,
        ),
        (
            "org.apache.spark.api.python.PythonException: Traceback:\n"
            "ConnectionResetError: [Errno 104] Connection reset by peer",
            "a connection broke",
            WorkerError,
        ),
        ("java.lang.OutOfMemoryError: Java heap space", "Spark gave up a job", WorkerError),
    ],
)
def test_reason_is_on_the_first_line(cause: str, said: str, kind: type[WorkerError]) -> None:
    error = lost(cause)
    assert said in str(error).splitlines()[0]
    final = error.final("train epoch 3", 2)
    assert type(final) is kind
    assert (final.rank, final.host, final.phase) == (1, "10.0.0.7", "train epoch 3")
    assert error.repeatable == ("No space left" not in cause)
    used_up = "max_restarts=2 of ShuffleConfig are used up" in str(final).splitlines()[0]
    assert used_up == error.repeatable
    assert cause.splitlines()[-1] in str(final)
    assert "DAGScheduler" not in str(final)


def test_job_without_a_failed_task() -> None:
    text = "Job aborted due to stage failure: ShuffleMapStage 3 has failed: FetchFailed(null, ...)"
    error = explained(RuntimeError(text))
    assert isinstance(error, JobLostError)
    final = error.final("train epoch 0", 0)
    assert type(final) is TrainingError
    assert str(final).startswith("Shuffle files were lost again and again")


def test_missing_module_is_not_tried_again() -> None:
    text = "PythonException: Traceback:\nModuleNotFoundError: No module named 'spark_dlobd'"
    error = explained(RuntimeError(ABORTED.format(cause=text)))
    assert type(error) is TrainingError
    first = str(error).splitlines()[0]
    assert first.startswith("Python workers lack a package: No module named 'spark_dlobd'.")
    text = "PythonException: Traceback:\nModuleNotFoundError: No module named 'of_the_user'"
    error = explained(RuntimeError(ABORTED.format(cause=text)))
    assert "No module named 'of_the_user'. Install the same packages" in str(error)


def test_unexpected_exception_is_not_tried_again() -> None:
    text = "org.apache.spark.api.python.PythonException: Traceback:\nKeyError: 'weights'"
    error = explained(RuntimeError(ABORTED.format(cause=text)))
    assert type(error) is TrainingError
    assert "KeyError: 'weights'" in str(error)


def test_cancelled_job_is_not_tried_again() -> None:
    error = explained(RuntimeError("Job 3 cancelled part of cancelled job group g"))
    assert type(error) is TrainingError
    assert "was cancelled" in str(error)


def test_lost_state_names_rank_and_host() -> None:
    error = StateLostOnHostError("Slice 1 is not here.", where=(1, "a"))
    assert str(error) == "Rank 1 on a: Slice 1 is not here."
