"""Seconds of a model's training step, where it would be trained. Runs on the driver."""

from __future__ import annotations

import functools
import json
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spark_dlobd.cost.cluster import PROBE_TIMEOUT_S, driver_host, run_job
from spark_dlobd.cost.measured import StepCost
from spark_dlobd.cost.step_task import StepTask, run_step_task
from spark_dlobd.processes.failure import Failure, root_failure
from spark_dlobd.processes.spark_job import barrier_stage
from spark_dlobd.spark import slots

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import SparkSession

    from spark_dlobd.job.train_job import TrainJob

_BUDGET_S = 1.2


def probe_step(
    spark: SparkSession,
    job: TrainJob,
    arrays: tuple[NDArray[Any], ...],
    workers: int,
    timeout_s: float = PROBE_TIMEOUT_S,
) -> StepCost:
    """Time steps of a job's model in processes like those of its ranks.

    Parameters
    ----------
    spark : SparkSession
        Where.
    job : TrainJob
        Its model is built anew, in child processes of tasks and on the driver, and thrown
        away.
    arrays : tuple of numpy.ndarray
        Some rows: features, labels and, where there are any, weights.
    workers : int
        Processes at once, at most as many as there are slots.
    timeout_s : float, default 60
        Longest wait for the tasks.

    Raises
    ------
    WorkerError
        If the model cannot be trained on these rows.
    TrainingError
        If Spark gave the probe up, or it took too long.
    """
    import cloudpickle

    available = slots(spark)
    together = max(1, min(workers, available.slots))
    full = job.config.batch_size
    # of one worker alone two sizes are timed as well
    rows = max(1, full // max(together, 2))
    # the callbacks stay here, and may be anything
    small = replace(job, config=replace(job.config, callbacks=()))
    task = StepTask(
        payload=cloudpickle.dumps((small, arrays)),
        rows=rows,
        full_rows=full,
        budget_s=_BUDGET_S,
        threads=available.cores_per_task,
        driver_host=driver_host(spark),
        token=secrets.token_bytes(32),
        timeout_s=timeout_s,
    )
    began = time.monotonic()
    stage = barrier_stage(together, functools.partial(run_step_task, task))
    # the tasks' own limits come first and say more
    told = [json.loads(row) for row in run_job(spark, stage, "probe steps", timeout_s + 10)]
    _raise_failure(told)
    workers_s = time.monotonic() - began
    began = time.monotonic()
    driver_seconds = _on_driver(small, arrays, full)
    seconds = {"workers": workers_s, "driver": time.monotonic() - began}
    return step_summary(told, rows, full, driver_seconds, seconds)


def step_summary(
    told: list[dict[str, Any]],
    rows: int,
    full: int,
    driver_seconds: float,
    probe_seconds: dict[str, float],
) -> StepCost:
    """The slowest of what each task told: workers wait for each other. Pure."""
    first = next(each for each in told if each["rank"] == 0)
    return StepCost(
        workers=len(told),
        workers_per_host=max(each["local_size"] for each in told),
        rows=rows,
        seconds=max(each["seconds"] for each in told),
        alone_seconds=first["alone_seconds"],
        full_rows=full,
        full_seconds=first["full_seconds"],
        driver_seconds=driver_seconds,
        ready_s=max(each["ready_s"] for each in told),
        tracing_s=max(each["tracing_s"] for each in told),
        memory_bytes=max(each["memory_bytes"] for each in told),
        probe_seconds=probe_seconds,
    )


def _raise_failure(told: list[dict[str, Any]]) -> None:
    failures = [Failure.from_json(each["failure"]) for each in told if "failure" in each]
    if cause := root_failure(failures):
        raise cause.error()


def _on_driver(job: TrainJob, arrays: tuple[NDArray[Any], ...], rows: int) -> float:
    """A step as backend `local` has it."""
    from spark_dlobd.backends.local import _users_random_numbers
    from spark_dlobd.cost.step_timer import StepTimer
    from spark_dlobd.training.loop import build_model

    with _users_random_numbers:
        timer = StepTimer(build_model(job), arrays, job)
        timer.trace(rows)
        return timer.seconds(rows, _BUDGET_S)
