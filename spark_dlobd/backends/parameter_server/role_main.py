"""Program of a worker, a server or the coordinator: ``role_main PARENT_PID EVENTS_FD``.

Runs on each worker. Reads the job and, as the coordinator, later the addresses of the
cluster from its standard input; writes events and at last the result to the descriptor.
"""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from typing import IO, Any

from spark_dlobd.backends.linux import die_with_parent
from spark_dlobd.backends.process import read_frame
from spark_dlobd.backends.rank_events import FrameEvents, failure_of
from spark_dlobd.training.tensorflow_import import import_tensorflow


def run(events: FrameEvents, stdin: IO[bytes]) -> None:
    """Play the role that the first frame names; every exception goes to the caller."""
    frame = read_frame(stdin)
    if frame is None:
        raise EOFError("the task closed the pipe before it sent the job")
    header, payload = frame
    events.phase("import tensorflow")
    import_tensorflow()
    import cloudpickle

    # Trusted: written by the task that is this process's parent.
    job, data, config = cloudpickle.loads(payload)
    if header["role"] == "coordinator":
        _coordinate(events, stdin, header, job, data, config)
        return
    from spark_dlobd.backends.parameter_server.server import start_server

    if header["role"] == "worker":
        _register_sources(job, data, config, header["index"])
    port = start_server(header["role"], header["index"], header["host"], _ports(header, config))
    events.tell({"kind": "listening", "port": port})
    stdin.read()  # until the task closes the pipe


def _register_sources(job: Any, data: Any, config: Any, worker: int) -> None:
    from spark_dlobd.backends.parameter_server.chunks import ChunkPlan
    from spark_dlobd.backends.parameter_server.source import source_for
    from spark_dlobd.backends.parameter_server.tokens import register_function

    for split in ("train", "validation"):
        if data.row_groups(split):
            plan = ChunkPlan.of_job(job, data, split, config.steps_per_call)
            source = source_for(data, split, plan, worker, job.config.world_size)
            register_function(split, source.take)


def _ports(header: dict[str, Any], config: Any) -> list[int]:
    """Ports to try: the one a killed process had, the configured ones, or any."""
    if header.get("port"):
        return [header["port"]]
    if config.port_range is None:
        return [0]
    return list(range(config.port_range[0], config.port_range[1] + 1))


def _coordinate(
    events: FrameEvents, stdin: IO[bytes], header: dict[str, Any], job: Any, data: Any, config: Any
) -> None:
    from spark_dlobd.backends.parameter_server.cluster import connect
    from spark_dlobd.backends.parameter_server.coordinator import train

    frame = read_frame(stdin)
    if frame is None:
        raise EOFError("the task closed the pipe before it sent the cluster")
    events.phase("connect to workers and servers")
    cluster = connect(
        frame[0]["workers"], frame[0]["servers"], header["host"], _ports(header, config)
    )
    events.tell({"kind": "met"})
    result = train(cluster, job, data, config, events)
    events.tell(
        {"kind": "result", "history": result.history, "report": result.report}, result.archive
    )


def main() -> int:
    """Play one role and tell how it ended."""
    die_with_parent(int(sys.argv[1]))
    events = FrameEvents(os.fdopen(int(sys.argv[2]), "wb"))
    try:
        run(events, sys.stdin.buffer)
    except Exception as error:
        events.tell(_described(error, events.current))
        traceback.print_exc()
        _leave(1)
    _leave(0)
    return 0


def _described(error: Exception, phase: str) -> dict[str, Any]:
    """Failure for the task; the loss of another process explains itself there."""
    described = {**failure_of(error, phase), **getattr(error, "where", {})}
    if "tensorflow" in sys.modules:
        from spark_dlobd.backends.parameter_server.cluster import is_lost_peer

        if is_lost_peer(error):
            described["cause"] = "peer"
    return described


def _leave(code: int) -> None:
    """End at once: a server has no shutdown, the coordinator's threads may wait for ever."""
    atexit._run_exitfuncs()  # temporary files of libraries
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
