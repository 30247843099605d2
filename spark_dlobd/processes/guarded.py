"""Run a command and answer for it: ``guarded PARENT_PID FOLDER COMMAND...``.

The command ends when the parent does, however that happens, and the folder that was
made for its files, its ``TMPDIR``, goes with it. The parent itself cannot promise that: Spark kills
the Python worker of a task that takes too long to end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from spark_dlobd.processes.linux import die_with_parent, end_process_group

# Longest that the command may take to end by itself; callers wait longer than this.
GRACE_S = 3.0
_AWAITED = (signal.SIGTERM, signal.SIGCHLD)


def main(parent_pid: int, folder: Path, command: list[str]) -> int:
    """Return the command's exit code, 128 and more if a signal ended it."""
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    die_with_parent(parent_pid, signal.SIGTERM)
    own_pid = os.getpid()

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
        die_with_parent(own_pid)

    folder.mkdir(mode=0o700)
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(folder)},
            start_new_session=True,
            preexec_fn=prepare,
        )
        # Open MPI leaves its files behind if it is told twice to end: this waits for one signal
        signal.sigwait(_AWAITED)
        end_process_group(process, GRACE_S)
    finally:
        shutil.rmtree(folder)
    code = process.returncode
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
