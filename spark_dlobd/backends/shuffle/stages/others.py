"""Stages between the steps: validation, and letting go. Runs on each worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from spark_dlobd.backends.shuffle.slices.folders import remove_shared
from spark_dlobd.backends.shuffle.slices.store import SliceStore
from spark_dlobd.backends.shuffle.stages.gradient import read_start, travelled
from spark_dlobd.backends.shuffle.stages.records import failure, received
from spark_dlobd.backends.shuffle.stages.task import ShuffleTask
from spark_dlobd.backends.shuffle.stages.worker import forget, tools_of
from spark_dlobd.backends.shuffle.wire.messages import Message, numbered, pack


def validation_stage(
    task: ShuffleTask, partition: int, records: Iterable[bytes]
) -> Iterator[bytes]:
    """Evaluate the rows of one rank at the task's checkpoint; the state of its metrics out."""
    received(records)
    tools = tools_of(task)
    vector, worker = read_start(task, partition)
    try:
        tools.replica.set_vector(travelled(task, vector))
        tools.replica.restore(("validation",), worker.variables)
        metrics = tools.replica.evaluate(partition)
    except Exception as error:
        yield pack(failure(task, error, partition, f"validate epoch {task.epoch}"))
        return
    yield pack(Message({"kind": "metrics", "source": partition}, numbered("metrics", metrics)))


def release_stage(
    run_id: str, folders: Sequence[str], partition: int, records: Iterable[bytes]
) -> Iterator[bytes]:
    """Let go of what this process and its host keep of a fit.

    The folders are those of all executors: a task that hangs may keep this one from the
    executor that it belongs to.
    """
    received(records)
    forget(run_id)
    SliceStore(run_id).remove()
    for folder in folders:
        remove_shared(Path(folder))
    yield from ()
