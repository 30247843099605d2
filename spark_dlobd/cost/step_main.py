"""Program that times steps as a rank has them: ``step_main PARENT_PID EVENTS_FD``.

Runs on each worker. It reads the job and then, one by one, what to time, and leaves when its
standard input ends. It is a process of its own because TensorFlow would stay in Spark's.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from typing import IO

from spark_dlobd.backends.linux import die_with_parent
from spark_dlobd.backends.process import read_frame
from spark_dlobd.backends.rank_events import FrameEvents, failure_of
from spark_dlobd.training.tensorflow_import import import_tensorflow


def run(events: FrameEvents, stdin: IO[bytes]) -> None:
    """Answer until there are no more questions; every exception goes to the caller."""
    frame = read_frame(stdin)
    if frame is None:
        raise EOFError("the task closed the pipe before it sent the job")
    started = time.monotonic()
    events.phase("import tensorflow")
    import_tensorflow()
    import cloudpickle
    import psutil

    from spark_dlobd.cost.step_timer import StepTimer
    from spark_dlobd.training.loop import build_model

    events.phase("build model")
    # Trusted: written by the task that is this process's parent.
    job, arrays = cloudpickle.loads(frame[1])
    timer = StepTimer(build_model(job), arrays)
    ready_s = time.monotonic() - started
    events.phase("probe steps")
    timer.trace(frame[0]["rows"])
    events.tell({"kind": "ready", "ready_s": ready_s, "tracing_s": timer.tracing_s})
    while (frame := read_frame(stdin)) is not None:
        seconds = timer.seconds(frame[0]["rows"], frame[0]["budget_s"])
        memory = psutil.Process().memory_info().rss
        events.tell({"kind": "timed", "seconds": seconds, "memory_bytes": memory})


def main() -> int:
    """Time steps and tell what went wrong, if anything did."""
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
