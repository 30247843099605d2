from __future__ import annotations

import json

import pytest

from spark_dlobd.errors import (
    NonFiniteLossError,
    TrainingError,
    TrainingTimeoutError,
    WorkerError,
    WorkerLostError,
    WorkersDisagreeError,
)
from spark_dlobd.processes.failure import Cause, Failure, NonFiniteLoss, root_failure


def of(error: Exception) -> Failure:
    try:
        raise error
    except Exception as raised:
        return Failure.of(raised, "train epoch 1")


@pytest.mark.parametrize(
    ("error", "cause", "kind", "text"),
    [
        (ZeroDivisionError("no"), "user", WorkerError, "ZeroDivisionError: no"),
        (NonFiniteLoss.at(float("inf"), 1, 2), "nonfinite", NonFiniteLossError, "became inf in"),
        (TrainingError("count"), "own", WorkerError, "TrainingError: count"),
        (WorkersDisagreeError("keras differs"), "own", WorkersDisagreeError, "^keras differs$"),
        (RuntimeError("HorovodInternalError"), "peer", WorkerError, "RuntimeError: Horovod"),
        (EOFError("the pipe"), "peer", WorkerError, "EOFError: the pipe"),
    ],
)
def test_what_an_exception_becomes(
    error: Exception, cause: Cause, kind: type[TrainingError], text: str
) -> None:
    failure = of(error).at(1, "host1")
    assert (failure.cause, failure.rank, failure.host) == (cause, 1, "host1")
    assert "test_failure.py" in failure.traceback
    told = Failure.from_json(json.loads(json.dumps(failure.to_json())))
    assert told == failure
    with pytest.raises(kind, match=text):
        raise told.error()
    assert type(told.error()) is kind


def test_an_error_that_names_its_worker_is_not_named_twice() -> None:
    failure = of(WorkerLostError("the process was killed", 3, "host3", "build model"))
    assert (failure.message, failure.phase) == ("the process was killed", "build model")


def test_a_module_that_workers_do_not_have() -> None:
    """Such as that of a callback or a transformation."""
    failure = Failure.of(ModuleNotFoundError("No module named 'mine'"), "build model")
    assert failure.cause == "user"
    told = str(failure.at(1, "here").error())
    assert "in phase 'build model': ModuleNotFoundError: No module named 'mine'. It cannot" in told
    assert "addPyFile" in told


def test_who_computed_the_loss_is_who_is_named() -> None:
    failure = of(NonFiniteLoss("the loss became nan", 2, "host2")).at(0, "host0")
    assert str(failure.error()).startswith("Rank 2 on host2 failed in phase 'train epoch 1'")


@pytest.mark.parametrize(
    ("cause", "kind"),
    [("lost", WorkerLostError), ("aborted", WorkerLostError), ("timeout", TrainingTimeoutError)],
)
def test_causes_that_the_owner_of_a_process_sees(cause: Cause, kind: type[Exception]) -> None:
    assert type(Failure(cause, "E", "message", "phase").error()) is kind


def test_the_failure_that_explains_the_others() -> None:
    def failed(cause: Cause, rank: int) -> Failure:
        return Failure(cause, "E", "", "", rank=rank)

    failures = [failed("peer", 0), failed("timeout", 1), failed("user", 2), failed("nonfinite", 3)]
    found = root_failure(failures)
    assert found is not None and found.rank == 2
    assert root_failure([]) is None
