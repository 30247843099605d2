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

from spark_dlobd.backends.pace import PaceWatch
from spark_dlobd.backends.stall import Stalled, StallWatch
from spark_dlobd.errors import (
    RanksNotConnectedError,
    TrainingError,
    TrainingTimeoutError,
    WorkerLostError,
    WorkerStalledError,
)
from spark_dlobd.processes.channel import EventServer
from spark_dlobd.processes.events import (
    Attended,
    Disconnected,
    Epoch,
    Event,
    Failed,
    Measured,
    Met,
    Phase,
    Placed,
    Printed,
    Result,
    Stacks,
    Steps,
)
from spark_dlobd.processes.failure import Failure, root_failure
from spark_dlobd.processes.spark_job import SparkJob, barrier_stage
from spark_dlobd.processes.stacks import of_all_ranks
from spark_dlobd.processes.worker_interpreter import worker_problem
from spark_dlobd.spark import spark_context

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.tracking.reporter import Reporter

GangFunction = Callable[[Iterable[Any]], Iterable[bytes]]

_ROOT_CAUSE_WAIT_S = 2.0
_KEPT_LOG_LINES = 400
# What a rank does that is ready and only has to find the others.
_CONNECTING = ("start MPI", "wait for communicator", "initialize communicator")
_SUSPECT_S = 5.0  # a rank that had come no further for so long explains why others gave up


@dataclass(frozen=True)
class GangResult:
    """What a gang delivered.

    Attributes
    ----------
    told : Result
        What rank 0 told at its end.
    archive : bytes
        What the tasks yielded, joined.
    log_lines : list of str
        First lines that the ranks and their helpers printed.
    """

    told: Result
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
    failures: dict[int, Failure] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)
    stacks: dict[int, str] = field(default_factory=dict)
    result: Result | None = None
    log_lines: list[str] = field(default_factory=list)
    watch: StallWatch | None = None
    suspect: Stalled | None = None

    def __post_init__(self) -> None:
        """Nobody is slow yet."""
        self.pace = PaceWatch(self.size)

    def take(self, task: int, event: Event) -> None:
        """Note what a task told; `task` is its partition, not its rank."""
        rank = self.ranks.get(task, task)
        match event:
            case Placed():
                self.ranks[task] = event.rank
                self.hosts[task] = event.host
            case Phase():
                self.phases[task] = event.text
                self.reporter.worker_phase(event.text)
            case Attended() if self.watch is not None:
                self.watch.take(task, event, time.monotonic())
            case Stacks():
                self.stacks[rank] = event.text
            case Measured():
                self._measured(task, rank, event.facts)
            case Met():
                self.met.add(task)
            case Steps():
                self.reporter.steps(event.steps)
            case Epoch():
                self.reporter.epoch(event.epoch, event.metrics)
            case Printed():
                self._print(rank, event)
            case Failed():
                self._fail(task, event.failure)
            case Result():
                self.result = event
            case Disconnected():
                self.gone.append(task)

    def _measured(self, task: int, rank: int, facts: dict[str, Any]) -> None:
        self.reporter.measured(rank, facts)
        if "times" in facts:
            host = self.hosts.get(task, "an unknown host")
            slow = self.pace.take(rank, host, facts["times"])
            if slow is not None:
                self.reporter.slow(slow.rank, slow.part, str(slow))

    def _print(self, rank: int, line: Printed) -> None:
        if len(self.log_lines) < _KEPT_LOG_LINES:
            self.log_lines.append(line.text)
        self.reporter.log(rank, line.host, line.text)

    def _fail(self, task: int, failure: Failure) -> None:
        self.failures.setdefault(task, failure)
        if failure.cause == "peer" and self.watch is not None and self.suspect is None:
            self.suspect = self.watch.stalled(time.monotonic(), _SUSPECT_S)

    def error(self, spark_error: BaseException | None) -> TrainingError:
        """Make the one exception of this gang."""
        failure = root_failure(self.failures.values())
        lost = self._lost_error(spark_error)
        if failure is None or (lost is not None and failure.cause in ("aborted", "peer")):
            return lost or unexplained_error(spark_error)
        if failure.cause in ("peer", "timeout", "aborted") and self.is_connecting:
            return _not_connected(self.missing, _gave_up(failure))
        if failure.cause == "peer" and self.suspect is not None:
            return self._stall_error(self.suspect, _gave_up(failure))
        return failure.error()

    @property
    def missing(self) -> dict[int, str]:
        """Ranks that have not met the others, with their phase."""
        tasks = [task for task in range(self.size) if task not in self.met]
        return {self.ranks.get(t, t): self.phases.get(t, "not started") for t in tasks}

    @property
    def is_connecting(self) -> bool:
        """Whether ranks are missing, and all of them are ready and only have to connect."""
        phases = self.missing.values()
        return bool(phases) and all(phase in _CONNECTING for phase in phases)

    def raise_if_stalled(self) -> None:
        """End a gang in which one rank keeps the others waiting.

        Raises
        ------
        WorkerStalledError
            If nothing else has failed.
        """
        if self.watch is None or self.failures or self.gone or self.result is not None:
            return
        stalled = self.watch.stalled(time.monotonic())
        if stalled is not None:
            raise self._stall_error(
                stalled,
                "If that is normal for this model or a callback, raise "
                f"stall_timeout_s={self.watch.limit_s:g} of the backend's config.",
            )

    def _stall_error(self, stalled: Stalled, ending: str) -> WorkerStalledError:
        others = [self.ranks.get(task, task) for task in stalled.waiting]
        named = "rank " if len(others) == 1 else "ranks "
        named += ", ".join(map(str, sorted(others)[:10])) + (", ..." if others[10:] else "")
        what = (
            "its process told nothing (is it stopped, or does its host swap or hang?)"
            if stalled.silent
            else "it came no further"
        )
        stacks = f"\n\n{of_all_ranks(self.stacks)}" if self.stacks else ""
        return WorkerStalledError(
            f"{what} for {stalled.seconds:.0f} s in which {named} waited for it. {ending}{stacks}",
            self.ranks.get(stalled.task, stalled.task),
            self.hosts.get(stalled.task, "an unknown host"),
            stalled.phase,
        )

    def _lost_error(self, spark_error: BaseException | None) -> WorkerLostError | None:
        text = str(spark_error)
        if "cancelled" in text:
            return None
        silent = [task for task in self.gone if task not in self.failures]
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


def _gave_up(failure: Failure) -> str:
    first_line = (failure.message.splitlines() or [""])[0]
    return f"Rank {failure.rank} gave up: {failure.type}: {first_line}"


def unexplained_error(spark_error: BaseException | None) -> TrainingError:
    """Make the error of a job that Spark ended and no task explained."""
    text = str(spark_error)
    if "cancelled" in text:
        return TrainingError(
            "The Spark job of this fit was cancelled (its job group, its tag or the whole "
            f"context). {first_line_of_cause(text)}"
        )
    if problem := worker_problem(text):
        return TrainingError(f"{problem}\n\nSpark says:\n{text}")
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
    stall_timeout_s: float | None = None,
    connect_timeout_s: float | None = None,
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
    stall_timeout_s : float, optional
        Longest time that one rank may keep others waiting, for ranks that tell their
        attendance.
    connect_timeout_s : float, optional
        Longest wait until all ranks have met, from when all of them are ready.

    Returns
    -------
    GangResult
        What rank 0 told.

    Raises
    ------
    RanksNotConnectedError
        If all ranks were ready and did not find each other.
    TrainingError
        The one error that explains why the gang failed.
    """
    context = spark_context(spark)
    conf = context.getConf()
    advertised = conf.get("spark.driver.host") or "127.0.0.1"
    bind = conf.get("spark.driver.bindAddress") or advertised
    watch = None if stall_timeout_s is None else StallWatch(stall_timeout_s)
    state = GangState(reporter, world_size, watch=watch)
    with EventServer(bind, advertised, clients=world_size) as server:
        stage = barrier_stage(world_size, make_task(server))
        job = SparkJob(spark, stage, f"spark-dlobd-{run_id}")
        try:
            _watch(job, server, state, start_timeout_s, connect_timeout_s or start_timeout_s)
        except BaseException:
            job.cancel()
            raise
        finally:
            job.join()
            _drain_until_left(server, state)
        if job.error is not None or state.result is None:
            raise state.error(job.error) from None
        return GangResult(state.result, b"".join(job.rows), state.log_lines)


def _watch(
    job: SparkJob,
    server: EventServer,
    state: GangState,
    start_timeout_s: float,
    connect_timeout_s: float,
) -> None:
    """Take events until the job ends; a gang that does not meet or stalls is an error."""
    job.start()
    meet_by = time.monotonic() + start_timeout_s
    ready_at: float | None = None
    while job.is_running:
        with suppress(queue.Empty):
            state.take(*server.events.get(timeout=0.1))
        if server.events.empty():  # all that was told is known
            state.raise_if_stalled()
        if len(state.met) == state.size:
            continue
        now = time.monotonic()
        ready_at = (ready_at or now) if state.is_connecting else None
        if ready_at is not None and now > min(ready_at + connect_timeout_s, meet_by):
            waited = f"They waited {now - ready_at:.0f} s for each other."
            raise _not_connected(state.missing, waited)
        if now > meet_by:
            raise TrainingTimeoutError(
                f"Not all {state.size} ranks met within start_timeout_s={start_timeout_s:g}: "
                f"missing {_with_phases(state.missing)}. Is the cluster busy, or a firewall "
                "between the executors? Free slots, open the ports, or raise start_timeout_s in "
                "the backend's config."
            )


def _not_connected(missing: dict[int, str], reason: str) -> RanksNotConnectedError:
    return RanksNotConnectedError(
        f"All ranks started, but these could not connect: {_with_phases(missing)}. {reason} Is a "
        "firewall between the executors, the wrong network_interface set, or another program "
        "connecting to their ports? See start_timeout_s in the backend's config."
    )


def _with_phases(ranks: dict[int, str]) -> str:
    return ", ".join(f"rank {rank} (phase '{phase}')" for rank, phase in ranks.items())


def _drain_until_left(server: EventServer, state: GangState) -> None:
    """Take the last events; after a failure give the root cause a moment to arrive."""
    deadline = time.monotonic() + _ROOT_CAUSE_WAIT_S
    while time.monotonic() < deadline:
        try:
            state.take(*server.events.get(timeout=0.05))
        except queue.Empty:
            if state.result is not None or not server.connected:
                return
