"""How a start of ranks fails, and which failure is worth another start; without Spark."""

from __future__ import annotations

import functools
import queue
import subprocess
import sys
import types
from typing import Any

import pytest

from spark_dlobd.backends import gang
from spark_dlobd.backends.gang import GangResult, GangState
from spark_dlobd.backends.horovod.backend import HorovodBackend
from spark_dlobd.backends.horovod.config import HorovodConfig
from spark_dlobd.errors import (
    RanksNotConnectedError,
    TrainingError,
    TrainingTimeoutError,
    WorkerError,
    WorkerLostError,
    WorkersDisagreeError,
)
from spark_dlobd.processes.child import ChildProcess
from spark_dlobd.processes.events import Failed, Met, Phase, Placed
from spark_dlobd.processes.failure import Cause, Failure
from spark_dlobd.tracking.reporter import Reporter


class RunningJob:
    """A Spark job that does not end by itself."""

    is_running = True

    def start(self) -> None:
        return


def reporter() -> Reporter:
    return Reporter(epochs=1, batch_size=1, verbose=0)


def started(*phases: str) -> GangState:
    """Ranks that have come to these phases."""
    state = GangState(reporter(), len(phases))
    for rank, phase in enumerate(phases):
        state.take(rank, Placed(rank, f"host{rank}"))
        state.take(rank, Phase(phase))
    return state


def watch(state: GangState, start_timeout_s: float, connect_timeout_s: float) -> None:
    server: Any = types.SimpleNamespace(events=queue.Queue())
    job: Any = RunningJob()
    gang._watch(job, server, state, start_timeout_s, connect_timeout_s)


def failed(rank: int, cause: Cause, kind: str = "HorovodInternalError") -> tuple[int, Failed]:
    message = "Gloo connectFullMesh failed\nat some line"
    return rank, Failed(Failure(cause, kind, message, "p", rank=rank, host=f"host{rank}"))


@pytest.mark.parametrize("start_timeout_s, connect_timeout_s", [(60, 0.3), (0.3, 60)])
def test_ranks_that_are_ready_and_do_not_find_each_other(
    start_timeout_s: float, connect_timeout_s: float
) -> None:
    state = started("initialize communicator", "wait for communicator")
    with pytest.raises(
        RanksNotConnectedError,
        match=r"could not connect: rank 0 \(phase 'initialize communicator'\), rank 1 \(phase "
        r"'wait for communicator'\)\. They waited 0 s",
    ):
        watch(state, start_timeout_s, connect_timeout_s)


@pytest.mark.parametrize("phase", ["import tensorflow", "build model"])
def test_a_rank_that_is_not_ready_is_the_users_or_the_clusters_slowness(phase: str) -> None:
    with pytest.raises(TrainingTimeoutError, match=f"missing .* rank 1 .phase '{phase}'") as caught:
        watch(started("initialize communicator", phase), 0.5, 0.1)
    assert not isinstance(caught.value, RanksNotConnectedError)


def test_a_rank_that_spark_did_not_start_is_no_failed_connection() -> None:
    state = started("initialize communicator")
    state.size = 2
    with pytest.raises(TrainingTimeoutError, match=r"rank 1 \(phase 'not started'\)") as caught:
        watch(state, 0.5, 0.1)
    assert not isinstance(caught.value, RanksNotConnectedError)


@pytest.mark.parametrize("cause", ["peer", "timeout", "aborted"])
def test_what_a_rank_says_of_its_peers_while_it_connects(cause: str) -> None:
    state = started("initialize communicator", "initialize communicator")
    state.take(*failed(1, cause))
    error = state.error(None)
    assert isinstance(error, RanksNotConnectedError)
    assert "Rank 1 gave up: HorovodInternalError: Gloo connectFullMesh failed" in str(error)


@pytest.mark.parametrize("name, killed", [("SIGABRT", False), ("SIGKILL", True)])
def test_a_rank_that_gloo_aborts_was_not_killed(name: str, killed: bool) -> None:
    rank = ChildProcess("any.module", {}, print)
    program = f"import os, signal; os.kill(os.getpid(), signal.{name})"
    rank.process = subprocess.Popen([sys.executable, "-c", program])
    rank.process.wait(timeout=10)
    assert rank.was_killed is killed


def test_the_same_words_in_training_are_another_error() -> None:
    state = started("train epoch 0", "train epoch 0")
    for rank in (0, 1):
        state.take(rank, Met())
    state.take(*failed(1, "peer"))
    assert type(state.error(None)) is WorkerError


def test_an_error_of_our_own_is_not_one_of_the_connection() -> None:
    state = started("initialize communicator", "initialize communicator")
    state.take(*failed(0, "own", "WorkersDisagreeError"))
    state.take(*failed(1, "peer"))
    assert type(state.error(None)) is WorkersDisagreeError


def fit_with(outcomes: list[Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any]]:
    """Run the backend's gang where each start ends with the next of `outcomes`."""
    calls: list[Any] = []

    def run_gang(*args: Any) -> GangResult:
        calls.append(args)
        outcome = outcomes[len(calls) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    monkeypatch.setattr(gang, "run_gang", run_gang)
    job: Any = types.SimpleNamespace(run_id="abc", config=types.SimpleNamespace(world_size=2))
    backend = HorovodBackend(HorovodConfig(start_timeout_s=100, stall_timeout_s=7))
    heard = reporter()
    make_task: Any = functools.partial
    spark: Any = None
    try:
        return (backend._run(spark, job, make_task, heard), heard.warnings), calls
    except TrainingError as error:
        return (error, heard.warnings), calls


def test_ranks_that_could_not_connect_are_started_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = GangResult({}, b"", [])
    outcomes = [RanksNotConnectedError("no one came."), result]
    (found, warnings), calls = fit_with(outcomes, monkeypatch)
    assert found is result
    assert warnings == ["no one came. Starting once more, on other ports."]
    assert [call[4] for call in calls] == ["abc", "abc-2"]  # sockets and files have other names
    # the first start gets a quarter of the time to connect, the second one all
    assert [call[5:] for call in calls] == [(100, 7, 25.0), (100, 7, 100)]


def test_a_second_failure_is_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [RanksNotConnectedError("first."), RanksNotConnectedError("second.")]
    (found, warnings), calls = fit_with(outcomes, monkeypatch)
    assert str(found) == "second."
    assert len(warnings) == 1
    assert len(calls) == 2


@pytest.mark.parametrize(
    "error",
    [
        TrainingTimeoutError("missing: rank 1 (phase 'build model')"),
        WorkerError("ValueError: no", 1, "host1", "build model"),
        WorkerLostError("killed", 1, "host1", "initialize communicator"),
        WorkersDisagreeError("keras differs"),
    ],
)
def test_other_failures_are_not_tried_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found, warnings), calls = fit_with([error], monkeypatch)
    assert found is error
    assert not warnings
    assert len(calls) == 1
