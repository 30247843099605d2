"""The coordinator's view of workers and servers. Runs on each worker (in the first task)."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spark_dlobd.errors import ResourceError


@dataclass(frozen=True)
class Cluster:
    """Workers and servers that this process has connected to.

    Attributes
    ----------
    strategy : tf.distribute.ParameterServerStrategy
        Puts variables on the servers.
    coordinator : tf.distribute.coordinator.ClusterCoordinator
        Schedules functions on the workers.
    workers, servers : tuple of str
        Their ``host:port``.
    """

    strategy: Any
    coordinator: Any
    workers: tuple[str, ...]
    servers: tuple[str, ...]


def connect(
    workers: Sequence[str], servers: Sequence[str], host: str, ports: Sequence[int]
) -> Cluster:
    """Connect this process, which becomes the coordinator.

    Parameters
    ----------
    workers, servers : sequence of str
        ``host:port`` of each.
    host : str
        Address of this process.
    ports : sequence of int
        Where the coordinator may listen; 0 lets the system choose.

    Raises
    ------
    ResourceError
        If no port is free.
    """
    import tensorflow as tf

    spec = tf.train.ClusterSpec(
        {
            "chief": [f"{host}:{_free(host, ports)}"],
            "worker": list(workers),
            "ps": list(servers),
        }
    )
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        spec, task_type="chief", task_id=0, rpc_layer="grpc"
    )
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    return Cluster(strategy, coordinator, tuple(workers), tuple(servers))


def _free(host: str, ports: Sequence[int]) -> int:
    """First port of `ports` that nothing listens on; nobody connects to the coordinator."""
    if list(ports) == [0]:
        return 0
    for port in ports:
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise ResourceError(
        f"No port is free for the coordinator on {host}: tried {ports[0]} to {ports[-1]}. Widen "
        "port_range or end what listens there."
    )


def is_lost_worker(error: BaseException) -> bool:
    """Whether an error of TensorFlow means that a worker, and no server, went away."""
    return _is_lost(error) and "/job:worker" in str(error) and "/job:ps" not in str(error)


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error of TensorFlow means that a worker or a server went away."""
    return _is_lost(error) and "/job:" in str(error)


def _is_lost(error: BaseException) -> bool:
    import tensorflow as tf

    kinds = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
    return isinstance(error, kinds)
