"""Jobs that the user's cancelling ends, and those that it must not end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pyspark import SparkContext
from pyspark.sql import SparkSession

from spark_dlobd.processes.spark_job import SparkJob

GROUP = "the user's group"


def slow(context: SparkContext) -> list[bytes]:
    def wait(_: Any) -> bytes:
        time.sleep(3)
        return b"done"

    return context.parallelize([0], 1).map(wait).collect()


@pytest.fixture
def cancelled(spark: SparkSession) -> Iterator[None]:
    """The user's group and tag are set here, and cancelled again and again."""
    context, over = spark.sparkContext, threading.Event()
    context.setJobGroup(GROUP, "a fit")
    context.addJobTag("the user's tag")

    def cancel() -> None:
        while not over.wait(0.2):
            context.cancelJobGroup(GROUP)
            context.cancelJobsWithTag("the user's tag")

    thread = threading.Thread(target=cancel)
    thread.start()
    yield
    over.set()
    thread.join()
    context.clearJobTags()
    for name in ("spark.jobGroup.id", "spark.job.description"):
        context.setLocalProperty(name, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("alone", [False, True])
def test_only_a_job_of_its_own_goes_on(spark: SparkSession, cancelled: None, alone: bool) -> None:
    job = SparkJob(spark, slow, "spark-dlobd-test", "a job", alone)
    job.start()
    job.join(30)
    assert not job.is_running
    if alone:
        assert (job.error, job.rows) == (None, [b"done"])
    else:
        assert job.error is not None and "cancelled" in str(job.error)
