"""Gradient stage: N weight slices in, N gradient slices out. Runs on each worker.

Everything a stage needs comes with its records, so Spark may run any task again, elsewhere
or twice: statistics, random state and metrics of rank n go from partition n to partition n.
The algorithm is that of BigDL's AllReduceParameter (Dai et al., "BigDL: A Distributed Deep
Learning Framework for Big Data", SoCC 2019).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.backends.shuffle.slices.checkpoint import CheckpointStore
from spark_dlobd.backends.shuffle.slices.state import Array, SliceState, WorkerState
from spark_dlobd.backends.shuffle.stages.records import (
    Clock,
    failure,
    failure_among,
    received,
    tell,
    to,
    to_all,
)
from spark_dlobd.backends.shuffle.stages.task import ShuffleTask
from spark_dlobd.backends.shuffle.stages.worker import Tools, tools_of
from spark_dlobd.backends.shuffle.wire.events import GradientSent, WarmedUp
from spark_dlobd.backends.shuffle.wire.messages import Message
from spark_dlobd.backends.shuffle.wire.vectors import decode, encode, encode_with_feedback
from spark_dlobd.processes.python_worker import speed_up_worker


def warm_up_stage(task: ShuffleTask, partition: int, records: Iterable[Any]) -> Iterator[bytes]:
    """Build the model."""
    speed_up_worker()
    for _ in records:
        pass
    try:
        tools = tools_of(task)
        tools.replica.warm_up()
        tools.settle()
    except Exception as error:
        failure(task, error, partition, "build model")
    tell(task, WarmedUp(partition))
    yield from ()


def gradient_stage(task: ShuffleTask, partition: int, records: Iterable[bytes]) -> Iterator[bytes]:
    """Weight slices in, gradient slices out."""
    clock = Clock()
    messages = received(records)
    if failed := failure_among(messages):
        yield from to_all(task, failed)
        return
    tools = tools_of(task)
    step = messages[0].header["step"] if messages else task.first_step
    owned = SliceState.of(messages[partition]) if messages else None
    vector, worker = _start(task, partition, messages)
    clock.lap("get_weights")
    waited = tools.replica.seconds_waiting
    try:
        if not messages:
            vector = travelled(task, vector)
        values, logs, variables = _compute(task, tools, partition, step, vector, worker)
        clock.lap("compute")
        parts, residual = _encoded(task, tools, values, worker.residual)
    except Exception as error:
        phase = f"train epoch {task.epoch} step {step}"
        yield from to_all(task, failure(task, error, partition, phase))
        return
    header = {"kind": "gradient", "source": partition, "step": step}
    carried = WorkerState(variables, residual).arrays()
    if owned is not None:
        carried |= owned.arrays()
    for target, part in enumerate(parts):
        own = carried if target == partition else {}
        yield from to(target, Message(header, {"values": part, **own}))
    clock.lap("put_gradients")
    following = min(step + task.sync_every, task.last_step)
    told = GradientSent(
        partition,
        task.epoch,
        step,
        seconds=_without_input(clock.laps, tools.replica.seconds_waiting - waited),
        logs=logs,
        rows=sum(tools.replica.plan.local_batch_sizes(partition)[step:following]),
        measured=tools.sampler.drain(),
    )
    tell(task, told)


def _without_input(laps: dict[str, float], waited: float) -> dict[str, float]:
    """Count the wait for a batch by itself."""
    return {**laps, "input": waited, "compute": laps["compute"] - waited}


def _start(task: ShuffleTask, partition: int, messages: list[Message]) -> tuple[Array, WorkerState]:
    """Weights and worker state, of the messages or, at the start of a job, the checkpoint."""
    if messages:
        parts = [decode(message.arrays["values"], task.wire) for message in messages]
        return np.concatenate(parts), WorkerState.of(messages[partition])
    return read_start(task, partition)


def read_start(task: ShuffleTask, partition: int) -> tuple[Array, WorkerState]:
    """Weights, in fp32, and worker state of the checkpoint."""
    store = CheckpointStore(task.checkpoints)
    parts = store.read_all(*task.start.weights, "weights", task.world_size)
    vector = np.concatenate([part.arrays["values"] for part in parts])
    return vector, WorkerState.of(store.read(*task.start.worker, "worker", partition))


def travelled(task: ShuffleTask, vector: Array) -> Array:
    """Weights as the shuffle would have delivered them."""
    return decode(encode(vector, task.wire), task.wire)


def _compute(
    task: ShuffleTask, tools: Tools, rank: int, step: int, vector: Array, worker: WorkerState
) -> tuple[Array, list[dict[str, float]], list[NDArray[Any]]]:
    """A gradient or, of several local steps, the vector after them; logs; worker variables."""
    from spark_dlobd.processes.failure import NonFiniteLoss

    replica = tools.replica
    averages = task.sync_every > 1
    replica.set_vector(vector)
    replica.restore((rank, task.epoch, step), worker.variables)
    if averages and task.learning_rate is not None:
        replica.model.optimizer.learning_rate = task.learning_rate
    logs = []
    following = min(step + task.sync_every, task.last_step)
    for local in range(step, following):
        numbers, gradient = replica.step(rank, task.epoch, local)
        if not math.isfinite(numbers.get("loss", 0.0)):
            raise NonFiniteLoss.at(numbers["loss"], task.epoch, local)
        logs.append(numbers)
    values = replica.get_vector() if averages else gradient
    return values, logs, replica.carry((rank, task.epoch, following))


def _encoded(
    task: ShuffleTask, tools: Tools, flat: Array, residual: Array | None
) -> tuple[list[NDArray[np.uint8]], Array | None]:
    """Slices as they travel, and what rounding took."""
    parts = tools.slices.cut(flat)
    if residual is None:
        return [np.frombuffer(encode(part, task.wire), np.uint8) for part in parts], None
    encoded, lost = [], []
    for part, before in zip(parts, tools.slices.cut(residual), strict=True):
        values, rest = encode_with_feedback(part, before, task.wire)
        encoded.append(np.frombuffer(values, np.uint8))
        lost.append(rest)
    return encoded, np.concatenate(lost)
