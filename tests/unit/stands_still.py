"""A child program that comes no further: ``stands_still PARENT_PID EVENTS_FD``."""

from __future__ import annotations

import sys
import time

from spark_dlobd.processes.child_program import Parent, run_child


def stands_still(parent: Parent) -> None:
    """Say so, and do it."""
    parent.phase("standing still")
    time.sleep(60)


if __name__ == "__main__":
    sys.exit(run_child(stands_still))
