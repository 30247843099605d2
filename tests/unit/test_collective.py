"""TensorFlow's ring: its options, its ports, and what of its errors the peers are to blame for."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

import pytest
import tensorflow as tf

from spark_dlobd import CollectiveConfig
from spark_dlobd.backends.collective.rank_main import cause_of
from spark_dlobd.backends.collective.task import hold_port
from spark_dlobd.errors import ConfigurationError, ResourceError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "int8"}, "compression must be one of None, 'fp16', 'bf16'. Got 'int8'"),
        ({"port_range": (80, 90)}, "port_range must be None or .first, last. with 1024 <="),
        ({"operation_timeout_s": 0}, "operation_timeout_s must be a float of at least 1"),
        ({"threads_per_rank": 1.5}, "threads_per_rank must be an int"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CollectiveConfig(**options)


@pytest.mark.parametrize(
    ("options", "transport"),
    [
        ({}, None),
        ({"mpi_transport": "tcp"}, "mpi"),
        ({"transport": "mpi", "mpi_args": ["-v"]}, "mpi"),
        ({"port_range": (40000, 40009)}, "ring"),
        ({"nccl": True}, "ring"),
    ],
)
def test_an_option_of_one_transport_asks_for_it(
    options: dict[str, Any], transport: str | None
) -> None:
    assert CollectiveConfig(**options).transport == transport


@pytest.mark.parametrize(
    "options",
    [
        {"transport": "ring", "mpi_transport": "tcp"},
        {"transport": "mpi", "port_range": (40000, 40009)},
        {"mpi_args": ("-v",), "port_range": (40000, 40009)},
        {"transport": "mpi", "nccl": True},
    ],
)
def test_no_option_is_passed_over(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"Got transport=.* leave out what belongs"):
        CollectiveConfig(**options)


def test_tasks_of_a_host_take_different_ports() -> None:
    with ExitStack() as stack:
        first = stack.enter_context(hold_port(None)).getsockname()[1]
        scarce = (first, min(first + 30, 65535))
        others = [stack.enter_context(hold_port(scarce)).getsockname()[1] for _ in range(3)]
        assert len({first, *others}) == 4
        assert all(scarce[0] < port <= scarce[1] for port in others)


def test_a_range_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError, match=f"tried {port} to {port}. Widen port_range"):
            hold_port((port, port))


_USERS = "{{function_node __wrapped__Assert_device_/job:worker/replica:0/task:1}} assertion failed"
"""An eager operation's error names the device of the rank, which is called as in a ring."""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (tf.errors.UnavailableError(None, None, "connection refused"), "peer"),
        (tf.errors.DeadlineExceededError(None, None, "Collective timed out"), "peer"),
        (tf.errors.InternalError(None, None, "Collective ops is aborted by: reset"), "peer"),
        (tf.errors.UnknownError(None, None, "Could not start gRPC server"), "peer"),
        (tf.errors.InvalidArgumentError(None, None, "indices[0] = 9 is not in [0, 5)"), None),
        (tf.errors.InvalidArgumentError(None, None, _USERS), None),
        (ValueError("Collective of errors"), None),
    ],
)
def test_who_is_to_blame(error: Exception, cause: str | None) -> None:
    assert cause_of(error) == cause


def _reductions(group: Any) -> list[tuple[str, str, bytes]]:
    """Purpose by type, device and hint of the collective operations of a step."""
    import tensorflow as tf

    def step(gradient: Any, flag: Any) -> Any:
        return group.average_gradients([gradient]), group.any_flag(flag)

    specs = tf.TensorSpec([3], tf.float32), tf.TensorSpec([], tf.int32)
    graph = tf.function(step, autograph=False).get_concrete_function(*specs).graph
    found = [node for node in graph.as_graph_def().node if node.op == "CollectiveReduceV2"]
    by_type = {1: "gradients", 3: "flag"}
    return sorted(
        (by_type[n.attr["T"].type], n.device.rpartition(":")[0], n.attr["communication_hint"].s)
        for n in found
    )


def test_gradients_on_gpus_are_averaged_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the graph says: there is no GPU here."""
    import tensorflow as tf

    from spark_dlobd.backends.collective.ring import RingGroup

    of_task = "/job:worker/replica:0/task:1/device"
    flag = ("flag", f"{of_task}:CPU", b"ring")
    assert _reductions(RingGroup(1, 2, None, 10.0)) == [
        flag,
        ("gradients", f"{of_task}:CPU", b"ring"),
    ]
    with pytest.raises(ResourceError, match="nccl=True averages gradients on GPUs, and rank 1"):
        RingGroup(1, 2, None, 10.0, nccl=True)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    group = RingGroup(1, 2, None, 10.0, nccl=True)
    assert _reductions(group) == [flag, ("gradients", f"{of_task}:GPU", b"nccl")]
