"""Update stage: N gradient slices in, N weight slices out. Runs on each worker.

Partition n owns slice n with its optimizer's state. Where the norm of the whole gradient is
clipped, a norm stage comes before, in which owners exchange sums of squares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.backends.shuffle.slices.checkpoint import CheckpointStore
from spark_dlobd.backends.shuffle.slices.plan import empty_aligned
from spark_dlobd.backends.shuffle.slices.state import Array, SliceState, WorkerState
from spark_dlobd.backends.shuffle.slices.store import SliceStore
from spark_dlobd.backends.shuffle.stages.records import (
    Clock,
    StateLostError,
    failure,
    failure_among,
    received,
    tell,
    to,
    to_all,
)
from spark_dlobd.backends.shuffle.stages.task import ShuffleTask
from spark_dlobd.backends.shuffle.stages.worker import Tools, tools_of
from spark_dlobd.backends.shuffle.wire.events import SliceUpdated
from spark_dlobd.backends.shuffle.wire.messages import Message, numbered, pack
from spark_dlobd.backends.shuffle.wire.vectors import decode, encode

if TYPE_CHECKING:
    from spark_dlobd.backends.shuffle.slices.optimizer import SliceOptimizer


def norm_stage(task: ShuffleTask, partition: int, records: Iterable[bytes]) -> Iterator[bytes]:
    """Gradient slices in, sums of squares of the mean gradient out."""
    messages = received(records)
    if failed := failure_among(messages):
        yield from to_all(task, failed)
        return
    mean = _mean(task, messages)
    own = messages[partition]
    step = own.header["step"]
    try:
        squares = _optimizer(task, tools_of(task), step, own).sum_of_squares(mean)
    except OSError:
        raise  # Spark tries again
    except Exception as error:
        yield from to_all(task, failure(task, error, partition, _phase(task, step)))
        return
    header = {"kind": "norm", "source": partition, "step": step, "sum_of_squares": squares}
    carried = {name: array for name, array in own.arrays.items() if name != "values"}
    for target in range(task.world_size):
        arrays = {**carried, "mean": mean} if target == partition else {}
        yield from to(target, Message(header, arrays))


def update_stage(
    task: ShuffleTask, final: bool, partition: int, records: Iterable[bytes]
) -> Iterator[bytes]:
    """Gradient slices in, weight slices out; at the end of a job a checkpoint."""
    clock = Clock()
    messages = received(records)
    failed = failure_among(messages)
    if failed is None:
        own = messages[partition]
        step = own.header["step"]
        mean = own.arrays["mean"] if task.clipnorm is not None else _mean(task, messages)
        clock.lap("aggregate")
        following = min(step + task.sync_every, task.last_step)
        try:
            owned = _apply(task, tools_of(task), step, messages, own, mean)
            clock.lap("update")
            values = None if final else np.frombuffer(encode(owned.weights, task.wire), np.uint8)
        except OSError:
            raise  # Spark tries again
        except Exception as error:
            failed = failure(task, error, partition, _phase(task, step))
    if failed is not None:
        yield from [pack(failed)] if final else to_all(task, failed)
        return
    if values is None:
        yield pack(_leave_checkpoint(task, partition, owned, WorkerState.of(own)))
    else:
        _keep(task, partition, following, owned)
        clock.lap("keep_state")
        yield from _send_weights(task, partition, following, values, owned, WorkerState.of(own))
    clock.lap("put_weights")
    folder = str(SliceStore(task.run_id).folder)
    tell(task, SliceUpdated(partition, task.epoch, step, clock.laps, folder))


def _phase(task: ShuffleTask, step: int) -> str:
    return f"update epoch {task.epoch} step {step}"


def _mean(task: ShuffleTask, messages: list[Message]) -> Array:
    """Mean over sources, summed in fp32 and in the order of ranks."""
    first = decode(messages[0].arrays["values"], task.wire)
    total = empty_aligned(first.size)
    total[:] = first
    for message in messages[1:]:
        total += decode(message.arrays["values"], task.wire)
    total /= np.float32(task.world_size)
    return total


def _optimizer(task: ShuffleTask, tools: Tools, step: int, own: Message) -> SliceOptimizer:
    """The optimizer of the partition's slice as it is before a step."""
    index = own.source
    optimizer = tools.optimizer(index)
    if tools.holds.get(index) != (task.epoch, step):
        state = _slice_state(task, step, own)
        optimizer.load(state.weights, state.optimizer)
        tools.holds[index] = (task.epoch, step)
    return optimizer


def _slice_state(task: ShuffleTask, step: int, own: Message) -> SliceState:
    """State before a step, for a process that has another."""
    index = own.source
    if step == task.first_step:
        store = CheckpointStore(task.checkpoints)
        weights = store.read(*task.start.weights, "weights", index).arrays["values"]
        state = store.read(*task.start.optimizer, "optimizer", index)
        return SliceState(weights, state.group("optimizer"))
    if task.state == "shuffle":
        message: Message | None = own
    else:
        message = SliceStore(task.run_id).read(index, task.epoch, step)
    if message is None:
        raise StateLostError(
            f"Slice {index} as it was before step {step} of epoch {task.epoch} is not on this "
            "host: its executor was lost, or Spark moved the task."
        )
    found = SliceState.of(message)
    assert found is not None
    return found


def _apply(
    task: ShuffleTask, tools: Tools, step: int, messages: list[Message], own: Message, mean: Array
) -> SliceState:
    """The new slice: the optimizer's or, of averaged weights, the mean itself."""
    if task.sync_every > 1:
        return SliceState(mean)
    index = own.source
    optimizer = _optimizer(task, tools, step, own)
    del tools.holds[index]  # unknown, if the update fails
    scale = None
    if task.clipnorm is not None:
        from spark_dlobd.backends.shuffle.slices.optimizer import clip_scale

        squares = sum(message.header["sum_of_squares"] for message in messages)
        scale = clip_scale(squares, task.clipnorm)
    weights = optimizer.apply(mean, clip_scale=scale, learning_rate=task.learning_rate)
    tools.holds[index] = (task.epoch, step + 1)
    tools.settle()
    return SliceState(weights, optimizer.state())


def _keep(task: ShuffleTask, index: int, step: int, owned: SliceState) -> None:
    if task.sync_every == 1 and task.state == "host":
        message = Message({"kind": "slice", "source": index}, owned.arrays())
        SliceStore(task.run_id).write(index, task.epoch, step, message)


def _send_weights(
    task: ShuffleTask,
    partition: int,
    step: int,
    values: NDArray[np.uint8],
    owned: SliceState,
    worker: WorkerState,
) -> Iterator[bytes]:
    header = {"kind": "weights", "source": partition, "step": step}
    for target in range(task.world_size):
        arrays = {"values": values}
        if target == partition:
            arrays |= worker.arrays()
            if task.sync_every == 1 and task.state == "shuffle":
                arrays |= owned.arrays()
        yield from to(target, Message(header, arrays))


def _leave_checkpoint(
    task: ShuffleTask, partition: int, owned: SliceState, worker: WorkerState
) -> Message:
    store = CheckpointStore(task.checkpoints)
    where = (task.epoch, task.last_step)
    header = {"kind": "checkpoint", "source": partition}
    parts = {
        "weights": {"values": owned.weights},
        "optimizer": numbered("optimizer", owned.optimizer),
        "worker": worker.arrays(),
    }
    for part, arrays in parts.items():
        store.write(*where, part, partition, Message(header, arrays))
    return Message(header)
