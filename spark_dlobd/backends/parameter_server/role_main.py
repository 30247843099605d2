"""Program of a worker, a server or the coordinator: ``role_main PARENT_PID EVENTS_FD``.

Runs on each worker. Reads the job and, as the coordinator, later the addresses of the
cluster from its standard input; writes events and at last the result to the descriptor.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

from spark_dlobd.backends.parameter_server.events import Listening
from spark_dlobd.processes.child_program import Parent, run_child
from spark_dlobd.processes.events import Met, Result
from spark_dlobd.processes.failure import Cause
from spark_dlobd.processes.tensorflow_import import import_tensorflow


def run(parent: Parent) -> None:
    """Play the role that the first frame names; every exception goes to the caller."""
    header, payload = parent.next("the job")
    parent.phase("import tensorflow")
    import_tensorflow()
    import cloudpickle

    # Trusted: written by the task that is this process's parent.
    job, data, config = cloudpickle.loads(payload)
    if header["role"] == "coordinator":
        _coordinate(parent, header, job, data, config)
        return
    from spark_dlobd.backends.parameter_server.server import start_server

    if header["role"] == "worker":
        _register_sources(job, data, config, header["index"])
    port = start_server(header["role"], header["index"], header["host"], _ports(header, config))
    parent.tell(Listening(port))
    parent.stdin.read()  # until the task closes the pipe


def _register_sources(job: Any, data: Any, config: Any, worker: int) -> None:
    from spark_dlobd.backends.parameter_server.chunks import ChunkPlan
    from spark_dlobd.backends.parameter_server.source import source_for
    from spark_dlobd.backends.parameter_server.tokens import register_function
    from spark_dlobd.data.transform import transformer_of

    for split in ("train", "validation"):
        if data.row_groups(split):
            plan = ChunkPlan.of_job(job, data, split, config.steps_per_call)
            changes = transformer_of(job, split)
            source = source_for(data, split, plan, worker, job.config.world_size, changes)
            register_function(split, source.take)


def _ports(header: dict[str, Any], config: Any) -> list[int]:
    """Ports to try: the one a killed process had, the configured ones, or any."""
    if header.get("port"):
        return [header["port"]]
    if config.port_range is None:
        return [0]
    return list(range(config.port_range[0], config.port_range[1] + 1))


def _coordinate(parent: Parent, header: dict[str, Any], job: Any, data: Any, config: Any) -> None:
    from spark_dlobd.backends.parameter_server.cluster import connect
    from spark_dlobd.backends.parameter_server.coordinator import train

    found, _ = parent.next("the cluster")
    parent.phase("connect to workers and servers")
    cluster = connect(found["workers"], found["servers"], header["host"], _ports(header, config))
    parent.tell(Met())
    result = train(cluster, job, data, config, parent)
    parent.tell(Result(result.history, result.report, len(result.archive)), result.archive)


def _cause_of(error: Exception) -> Cause | None:
    """The loss of another process explains itself there."""
    if "tensorflow" in sys.modules:
        from spark_dlobd.backends.parameter_server.cluster import is_lost_peer

        if is_lost_peer(error):
            return "peer"
    return None


def _leave(code: int) -> None:
    """End at once: a server has no shutdown, the coordinator's threads may wait for ever."""
    atexit._run_exitfuncs()  # temporary files of libraries
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(run_child(run, _cause_of))
