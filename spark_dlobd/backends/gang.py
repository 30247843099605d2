"""Runs one barrier stage and turns what its workers tell into one result or one error.

Runs on the driver.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spark_dlobd.backends.channel import EventServer
from spark_dlobd.backends.spark_job import SparkJob, barrier_stage
from spark_dlobd.errors import (
    NonFiniteLossError,
    TrainingError,
    TrainingTimeoutError,
    WorkerError,
    WorkerLostError,
    WorkersDisagreeError,
)
from spark_dlobd.spark import spark_context

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.tracking.reporter import Reporter

GangFunction = Callable[[Iterable[Any]], Iterable[bytes]]

# Which failure explains the others; what peers see comes last.
_CAUSES = {"user": 0, "nonfinite": 0, "own": 1, "lost": 1, "timeout": 2, "aborted": 3, "peer": 4}
_ROOT_CAUSE_WAIT_S = 2.0
_KEPT_LOG_LINES = 400


@dataclass(frozen=True)
class GangResult:
    """What a gang delivered.

    Attributes
    ----------
    event : dict
        The ``result`` event of rank 0.
    archive : bytes
        What the tasks yielded, joined.
    log_lines : list of str
        First lines that the ranks and their helpers printed.
    """

    event: dict[str, Any]
    archive: bytes
    log_lines: list[str]


@dataclass
class GangState:
    """What the driver knows of a running gang."""

    reporter: Reporter
    size: int
    hosts: dict[int, str] = field(default_factory=dict)
    ranks: dict[int, int] = field(default_factory=dict)
    phases: dict[int, str] = field(default_factory=dict)
    met: set[int] = field(default_factory=set)
    failures: list[dict[str, Any]] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    result: dict[str, Any] | None = None
    log_lines: list[str] = field(default_factory=list)

    def take(self, event: dict[str, Any]) -> None:
        """Note one event; `event["rank"]` is the partition it came from."""
        task = event["rank"]
        rank = self.ranks.get(task, task)
        kind = event["kind"]
        if kind == "placed":
            self.ranks[task] = event["placed"]
            self.hosts[task] = event["host"]
        elif kind == "phase":
            self.phases[task] = event["phase"]
            self.reporter.worker_phase(event["phase"])
        elif kind == "measured":
            self.reporter.measured(rank, event)
        elif kind == "met":
            self.met.add(task)
        elif kind == "steps":
            self.reporter.steps([(e, s, m) for e, s, m in event["steps"]])
        elif kind == "epoch":
            self.reporter.epoch(event["epoch"], event["metrics"])
        elif kind == "log":
            if len(self.log_lines) < _KEPT_LOG_LINES:
                self.log_lines.append(event["text"])
            self.reporter.log(rank, event["host"], event["text"])
        elif kind == "failed":
            self.failures.append(event)
        elif kind == "result":
            self.result = event
        elif kind == "disconnected":
            self.gone.append(task)

    def root_failure(self) -> dict[str, Any] | None:
        """Return the failure that explains the others; of equals the first."""
        if not self.failures:
            return None
        return min(self.failures, key=lambda failure: _CAUSES[failure["cause"]])

    def error(self, spark_error: BaseException | None) -> TrainingError:
        """Make the one exception of this gang."""
        failure = self.root_failure()
        lost = self._lost_error(spark_error)
        if failure is None or (lost is not None and failure["cause"] in ("aborted", "peer")):
            return lost or unexplained_error(spark_error)
        return _error_of(failure)

    def _lost_error(self, spark_error: BaseException | None) -> WorkerLostError | None:
        text = str(spark_error)
        if "cancelled" in text:
            return None
        failed = {failure["rank"] for failure in self.failures}
        silent = [task for task in self.gone if task not in failed]
        if not silent:
            return None
        task = silent[0]
        return WorkerLostError(
            "its Spark task went away without a word: the executor or its Python worker was "
            "killed (often for memory; see spark.executor.memoryOverhead). "
            + first_line_of_cause(text),
            self.ranks.get(task, task),
            self.hosts.get(task, "an unknown host"),
            self.phases.get(task, "start"),
        )


def _error_of(failure: dict[str, Any]) -> TrainingError:
    text = f"{failure['type']}: {failure['message']}"
    where = (failure["failed"], failure["host"], failure["phase"])
    if failure["cause"] == "nonfinite":
        return NonFiniteLossError(failure["message"], *where)
    if failure["cause"] in ("lost", "aborted"):
        return WorkerLostError(failure["message"], *where)
    if failure["cause"] == "timeout":
        return TrainingTimeoutError(failure["message"])
    if failure["type"] == "WorkersDisagreeError":
        return WorkersDisagreeError(failure["message"])
    return WorkerError(text, *where, failure["traceback"])


def unexplained_error(spark_error: BaseException | None) -> TrainingError:
    """Make the error of a job that Spark ended and no task explained."""
    text = str(spark_error)
    if "cancelled" in text:
        return TrainingError(
            "The Spark job of this fit was cancelled (its job group, its tag or the whole "
            f"context). {first_line_of_cause(text)}"
        )
    return TrainingError(f"The Spark job of this fit failed: {text}")


def first_line_of_cause(text: str) -> str:
    """Pick the line of Spark's many that says why."""
    for line in text.splitlines():
        if "Job" in line or "ExecutorLostFailure" in line or "cancelled" in line:
            return f"Spark says: {line.strip()}"
    return ""


def run_gang(
    spark: SparkSession,
    world_size: int,
    make_task: Callable[[EventServer], GangFunction],
    reporter: Reporter,
    run_id: str,
    start_timeout_s: float,
) -> GangResult:
    """Run a barrier stage of `world_size` tasks.

    Parameters
    ----------
    spark : SparkSession
        Where.
    world_size : int
        Number of tasks, all at once.
    make_task : callable
        Given the event server, returns the function of each task.
    reporter : Reporter
        Hears metrics and log lines.
    run_id : str
        Names the Spark job's tag.
    start_timeout_s : float
        Longest wait until all ranks have met.

    Returns
    -------
    GangResult
        What rank 0 told.

    Raises
    ------
    TrainingError
        The one error that explains why the gang failed.
    """
    context = spark_context(spark)
    conf = context.getConf()
    advertised = conf.get("spark.driver.host") or "127.0.0.1"
    bind = conf.get("spark.driver.bindAddress") or advertised
    state = GangState(reporter, world_size)
    with EventServer(bind, advertised) as server:
        stage = barrier_stage(world_size, make_task(server))
        job = SparkJob(spark, stage, f"spark-dlobd-{run_id}")
        try:
            _watch(job, server, state, start_timeout_s)
        except BaseException:
            job.cancel()
            raise
        finally:
            job.join()
            _drain_until_left(server, state)
        if job.error is not None or state.result is None:
            raise state.error(job.error) from None
        return GangResult(state.result, b"".join(job.rows), state.log_lines)


def _watch(job: SparkJob, server: EventServer, state: GangState, start_timeout_s: float) -> None:
    """Take events until the job ends; a gang that does not meet is an error."""
    job.start()
    meet_by = time.monotonic() + start_timeout_s
    while job.is_running:
        with suppress(queue.Empty):
            state.take(server.events.get(timeout=0.1))
        if len(state.met) < state.size and time.monotonic() > meet_by:
            raise TrainingTimeoutError(_who_is_missing(state, start_timeout_s))


def _who_is_missing(state: GangState, start_timeout_s: float) -> str:
    silent = [task for task in range(state.size) if task not in state.met]
    known = {task: state.phases.get(task, "not started") for task in silent}
    return (
        f"Not all {state.size} ranks met within start_timeout_s={start_timeout_s:g}: missing "
        + ", ".join(f"rank {state.ranks.get(t, t)} (phase '{p}')" for t, p in known.items())
        + ". Is the cluster busy, or a firewall between the executors? Free slots, open the "
        "ports, or raise start_timeout_s in the backend's config."
    )


def _drain_until_left(server: EventServer, state: GangState) -> None:
    """Take the last events; after a failure give the root cause a moment to arrive."""
    deadline = time.monotonic() + _ROOT_CAUSE_WAIT_S
    while time.monotonic() < deadline:
        try:
            state.take(server.events.get(timeout=0.05))
        except queue.Empty:
            if state.result is not None or not server.connected:
                return
