"""Program that times steps as a rank has them: ``step_main PARENT_PID EVENTS_FD``.

Runs on each worker. It reads the job and then, one by one, what to time, and leaves when its
standard input ends. It is a process of its own because TensorFlow would stay in Spark's.
"""

from __future__ import annotations

import sys
import time

from spark_dlobd.cost.step_events import Ready, Timed
from spark_dlobd.processes.child_program import Parent, run_child
from spark_dlobd.processes.frames import read_frame
from spark_dlobd.processes.tensorflow_import import import_tensorflow


def run(parent: Parent) -> None:
    """Answer until there are no more questions; every exception goes to the caller."""
    header, payload = parent.next("the job")
    started = time.monotonic()
    parent.phase("import tensorflow")
    import_tensorflow()
    import cloudpickle
    import psutil

    from spark_dlobd.cost.step_timer import StepTimer
    from spark_dlobd.training.loop import build_model

    parent.phase("build model")
    # Trusted: written by the task that is this process's parent.
    job, arrays = cloudpickle.loads(payload)
    timer = StepTimer(build_model(job), arrays, job)
    ready_s = time.monotonic() - started
    parent.phase("probe steps")
    timer.trace(header["rows"])
    parent.tell(Ready(ready_s, timer.tracing_s))
    while (frame := read_frame(parent.stdin)) is not None:
        seconds = timer.seconds(frame[0]["rows"], frame[0]["budget_s"])
        memory = psutil.Process().memory_info().rss
        parent.tell(Timed(seconds, memory))


if __name__ == "__main__":
    sys.exit(run_child(run))
