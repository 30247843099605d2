"""Records of the shuffle: how they are written, read and explained."""

from __future__ import annotations

import json
import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spark_dlobd.backends.shuffle.fit import JobLostError
from spark_dlobd.backends.shuffle.slices.state import SliceState, WorkerState
from spark_dlobd.backends.shuffle.spark.jobs import error_of
from spark_dlobd.backends.shuffle.stages.records import (
    StateLostError,
    failure,
    failure_among,
    received,
    to_all,
)
from spark_dlobd.backends.shuffle.wire.messages import Message, numbered, pack, unpack
from spark_dlobd.errors import NonFiniteLossError, TrainingError, WorkerError, WorkersDisagreeError
from spark_dlobd.processes.events import Event, Failed
from spark_dlobd.processes.failure import Failure, NonFiniteLoss


def message(source: int = 0, **arrays: Any) -> Message:
    return Message({"kind": "test", "source": source}, arrays)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(7, dtype=np.float32),
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.float32(2.5).reshape(()),
        np.zeros((3, 0), np.float32),
        np.array([True, False]),
        np.arange(12, dtype=np.uint8)[::3],
    ],
    ids=["vector", "matrix", "scalar", "empty", "bool", "strided"],
)
def test_arrays_arrive_as_they_were(array: Any) -> None:
    found = unpack(pack(message(3, first=np.ones(5, np.uint8), second=array)))
    assert found.source == 3
    assert found.header == {"kind": "test", "source": 3}
    second = found.arrays["second"]
    assert (second.dtype, second.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(second, array)


def test_bfloat16_keeps_its_type() -> None:
    import ml_dtypes

    values = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    found = unpack(pack(message(values=values))).arrays["values"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_received_arrays_are_aligned_views_that_nobody_can_change() -> None:
    buffer = pack(message(odd=np.ones(3, np.uint8), values=np.arange(4.0)))
    values = unpack(buffer).arrays["values"]
    assert np.shares_memory(values, np.frombuffer(buffer, np.uint8))
    assert values.ctypes.data % 16 == np.frombuffer(buffer, np.uint8).ctypes.data % 16
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1


def test_the_header_is_json_after_its_length() -> None:
    buffer = pack(message(values=np.zeros(2, "<f4")))
    (length,) = struct.unpack_from("<Q", buffer)
    assert json.loads(buffer[8 : 8 + length]) == {
        "kind": "test",
        "source": 0,
        "arrays": [["values", "<f4", [2]]],
    }


def test_a_record_that_was_cut_off_is_an_error() -> None:
    buffer = pack(message(values=np.zeros(100)))
    with pytest.raises(TrainingError, match="ends before its array 'values' does"):
        unpack(buffer[:-300])


def test_groups_are_in_the_order_of_their_numbers() -> None:
    arrays = numbered("worker", [np.full(1, i) for i in range(12)])
    found = unpack(pack(message(**arrays, other=np.zeros(1)))).group("worker")
    assert [int(a[0]) for a in found] == list(range(12))


def test_states_are_read_as_they_were_written() -> None:
    worker = WorkerState([np.ones(2), np.zeros((1, 2))], np.float32([0.5]))
    found = WorkerState.of(unpack(pack(message(**worker.arrays()))))
    assert [a.shape for a in found.variables] == [(2,), (1, 2)]
    assert found.residual is not None and found.residual[0] == 0.5
    assert WorkerState.of(message()).residual is None
    owned = SliceState(np.float32([1, 2]), [np.int64(3).reshape(())])
    again = SliceState.of(unpack(pack(message(**owned.arrays()))))
    assert again is not None and again.weights.tolist() == [1, 2]
    assert [int(a) for a in again.optimizer] == [3]
    assert SliceState.of(message()) is None


def told_to(events: list[Event]) -> Any:
    def add(told: list[str]) -> None:
        events.extend(Event.from_json(json.loads(text)) for text in told)

    return SimpleNamespace(world_size=2, events=SimpleNamespace(add=add))


def test_records_come_in_the_order_of_their_sources() -> None:
    records = [b"", pack(message(2)), pack(message(0)), b"", pack(message(1)), b""]
    assert [m.source for m in received(records)] == [0, 1, 2]


def test_a_failure_is_found_and_sent_to_all() -> None:
    failed = Message({"kind": "failed", "source": 1, "failure": {}})
    assert failure_among([message(0), failed]) is failed
    assert failure_among([message(0), message(1)]) is None
    sent = list(to_all(told_to([]), failed))
    assert [int.from_bytes(address, "big") for address in sent[::2]] == [0, 1]
    assert [unpack(record).header for record in sent[1::2]] == [failed.header] * 2


@pytest.mark.parametrize(
    ("error", "cause", "kind", "text"),
    [
        (ValueError("bad row"), "user", WorkerError, r"Rank 1 .*train epoch 0.*ValueError: bad"),
        (TrainingError("other rows"), "own", WorkerError, "TrainingError: other rows"),
        (NonFiniteLoss.at(np.nan, 2, 3), "nonfinite", NonFiniteLossError, "nan in epoch 2, step 3"),
        (StateLostError("slice 1"), "lost", JobLostError, "Rank 1 on .*: slice 1"),
        (WorkersDisagreeError("Slice 1 has 3"), "own", WorkersDisagreeError, "Slice 1 has 3"),
    ],
    ids=["user", "own", "nonfinite", "lost", "disagree"],
)
def test_what_a_failure_becomes(error: Exception, cause: str, kind: type, text: str) -> None:
    events: list[Event] = []
    try:
        raise error
    except Exception as raised:
        header = failure(told_to(events), raised, 1, "train epoch 0").header
    told = Failure.from_json(json.loads(json.dumps(header))["failure"])
    assert events == [Failed(told)]
    assert told.cause == cause
    assert "test_what_a_failure_becomes" in told.traceback
    found = error_of(told)
    assert isinstance(found, kind)
    with pytest.raises(kind, match=text):
        raise found
