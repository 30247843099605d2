"""Run a command that is told to end when its parent dies: ``guarded PARENT_PID COMMAND...``."""

from __future__ import annotations

import os
import signal
import sys

from spark_dlobd.backends.linux import die_with_parent

if __name__ == "__main__":
    # The kernel keeps the death signal across exec.
    die_with_parent(int(sys.argv[1]), signal.SIGTERM)
    os.execvp(sys.argv[2], sys.argv[2:])
