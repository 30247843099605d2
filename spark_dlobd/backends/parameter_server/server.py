"""TensorFlow's gRPC server of a worker or a parameter server. Runs on each worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spark_dlobd.errors import ResourceError

_SERVERS: list[Any] = []  # a server that is garbage-collected stops


def start_server(role: str, index: int, host: str, ports: Sequence[int]) -> int:
    """Listen on the first free port of `ports` and return it.

    Port 0 lets the system choose, which leaves no moment in which another process
    could take the port. The addresses of the others are not needed: the coordinator
    sends them when it connects.

    Parameters
    ----------
    role : {"worker", "server"}
        What this process is.
    index : int
        Which of its kind.
    host : str
        Address that the others use.
    ports : sequence of int
        What to try, in this order.

    Raises
    ------
    ResourceError
        If no port is free.
    """
    import tensorflow as tf

    job = "ps" if role == "server" else "worker"
    for port in ports:
        spec = tf.train.ClusterSpec({job: {index: f"{host}:{port}"}})
        try:
            server = tf.distribute.Server(
                spec, job_name=job, task_index=index, protocol="grpc", start=True
            )
        except (tf.errors.UnknownError, tf.errors.UnavailableError):
            continue  # taken: try the next one
        _SERVERS.append(server)
        return int(server.target.rsplit(":", 1)[1])
    raise ResourceError(
        f"No port is free for {role} {index} on {host}: tried {ports[0]} to {ports[-1]}. Widen "
        "port_range or end what listens there."
    )
