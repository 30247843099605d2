"""Program of one Horovod rank: ``rank_main PARENT_PID EVENTS_FD``. Runs on each worker.

Reads the job and then the communicator's environment from its standard input,
writes events and at last the result to the descriptor. TensorFlow is imported
and the model is built while the tasks still meet.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from typing import IO, Any

from spark_dlobd.backends.linux import die_with_parent
from spark_dlobd.backends.process import read_frame
from spark_dlobd.backends.rank_events import FrameEvents, failure_of
from spark_dlobd.training.tensorflow_import import import_tensorflow


def run(events: FrameEvents, stdin: IO[bytes]) -> None:
    """Train one rank; every exception goes to the caller."""
    frame = read_frame(stdin)
    if frame is None:
        raise EOFError("the task closed the pipe before it sent the job")
    started = time.monotonic()
    events.phase("import tensorflow")
    tf = import_tensorflow()
    import cloudpickle
    import horovod.tensorflow as hvd

    events.phase("build model")
    # Trusted: written by the task that is this process's parent.
    job, data, options = cloudpickle.loads(frame[1])
    from spark_dlobd.training.loop import LoopOptions, build_model, plans, train_rank

    _share_gpus(tf)
    model = build_model(job)
    ready = time.monotonic() - started
    events.phase("wait for communicator")
    frame = read_frame(stdin)
    if frame is None:
        raise EOFError("the task closed the pipe before it sent the communicator")
    os.environ.update(frame[0]["environment"])
    events.phase("initialize communicator")
    hvd.init()
    expected = frame[0]["rank"]
    if hvd.rank() != expected or hvd.size() != job.config.world_size:
        raise RuntimeError(
            f"Horovod says rank {hvd.rank()} of {hvd.size()}, "
            f"the barrier says {expected} of {job.config.world_size}"
        )
    from spark_dlobd.backends.horovod_group import HorovodGroup

    group = HorovodGroup(options["compression"])
    group.check_agreement(_facts(job, plans(job, data, group.size)[0].describe()))
    events.tell({"kind": "met"})
    joined = time.monotonic() - started
    loop = LoopOptions(
        accumulation_steps=options["accumulation"],
        measured=lambda facts: events.tell({"kind": "measured", **facts}),
    )
    result = train_rank(model, job, data, group, events, loop)
    hvd.shutdown()
    report = {
        **result.report,
        "rank_seconds": {"ready": ready, "joined": joined, "all": time.monotonic() - started},
    }
    events.tell(
        {"kind": "result", "history": result.history, "report": report},
        result.archive,
    )


def _share_gpus(tf: Any) -> None:
    """Let several ranks use one GPU: allocate memory as it is needed."""
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)


def _facts(job: Any, plan: dict[str, Any]) -> dict[str, Any]:
    """What must be equal on all ranks."""
    import hashlib
    import platform
    from importlib.metadata import version

    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("keras", "horovod", "numpy", "petastorm", "pyarrow")},
        "shard plan": plan,
        "model": hashlib.sha256(job.model.archive).hexdigest()[:16],
    }


def main() -> int:
    """Run one rank and tell how it ended."""
    die_with_parent(int(sys.argv[1]))
    events = FrameEvents(os.fdopen(int(sys.argv[2]), "wb"))
    try:
        run(events, sys.stdin.buffer)
    except Exception as error:
        events.tell(failure_of(error, events.current))
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
