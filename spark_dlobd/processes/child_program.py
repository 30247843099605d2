"""The program of a child process, as `ChildProcess` starts it. Runs on each worker."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import IO, Any

from spark_dlobd.processes.events import Epoch, Event, Failed, Phase, Steps
from spark_dlobd.processes.failure import Cause, Failure
from spark_dlobd.processes.frames import read_frame, write_frame
from spark_dlobd.processes.linux import die_with_parent
from spark_dlobd.processes.stacks import answer_with_stacks


class Parent:
    """The task that started this process: what it sends, and what it is told.

    Parameters
    ----------
    stdin : binary stream
        Frames of the task.
    stream : binary stream
        Takes the events.
    """

    def __init__(self, stdin: IO[bytes], stream: IO[bytes]) -> None:
        self.stdin = stdin
        self._stream = stream
        self._lock = threading.Lock()
        self.current = "start"
        """What this process is doing, for error reports."""

    def next(self, content: str) -> tuple[dict[str, Any], bytes]:
        """Wait for a frame; `content` says what an error calls it.

        Raises
        ------
        EOFError
            If the task left instead.
        """
        frame = read_frame(self.stdin)
        if frame is None:
            raise EOFError(f"the task closed the pipe before it sent {content}")
        return frame

    def tell(self, event: Event, body: bytes = b"") -> None:
        """Write one frame; called from any thread."""
        with self._lock:
            write_frame(self._stream, event.to_json(), body)

    def phase(self, text: str) -> None:
        """Tell what this process is doing now."""
        self.current = text
        self.tell(Phase(text))

    def steps(self, steps: list[tuple[int, int, dict[str, float]]]) -> None:
        """Tell finished steps."""
        self.tell(Steps(steps))

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Tell the metrics of an epoch."""
        self.tell(Epoch(epoch, metrics))


def run_child(
    run: Callable[[Parent], None],
    cause_of: Callable[[Exception], Cause | None] = lambda _: None,
) -> int:
    """Run a program with the arguments ``PARENT_PID EVENTS_FD`` and tell how it ended.

    Parameters
    ----------
    run : callable
        The program.
    cause_of : callable, optional
        Knows more of an exception than its type tells.

    Returns
    -------
    int
        The exit code.
    """
    die_with_parent(int(sys.argv[1]))
    answer_with_stacks()
    parent = Parent(sys.stdin.buffer, os.fdopen(int(sys.argv[2]), "wb"))
    try:
        run(parent)
    except Exception as error:
        parent.tell(Failed(Failure.of(error, parent.current, cause_of(error))))
        traceback.print_exc()
        return 1
    return 0
