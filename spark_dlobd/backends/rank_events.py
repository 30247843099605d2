"""What a child process tells the barrier task that started it. Runs on each worker."""

from __future__ import annotations

import traceback
from typing import IO, Any

from spark_dlobd.backends.process import write_frame
from spark_dlobd.errors import DLError


class FrameEvents:
    """Tells the task over the pipe; keeps the current phase for error reports."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.current = "start"

    def tell(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Write one frame."""
        write_frame(self._stream, header, body)

    def phase(self, text: str) -> None:
        """Tell what the rank is doing now."""
        self.current = text
        self.tell({"kind": "phase", "phase": text})

    def steps(self, steps: list[tuple[int, int, dict[str, float]]]) -> None:
        """Tell finished steps."""
        self.tell({"kind": "steps", "steps": steps})

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Tell the metrics of an epoch."""
        self.tell({"kind": "epoch", "epoch": epoch, "metrics": metrics})


def failure_of(error: Exception, phase: str) -> dict[str, Any]:
    """Describe what ended a process of the gang."""
    cause = "user"
    if type(error).__name__ == "NonFiniteLoss":
        cause = "nonfinite"
    elif isinstance(error, DLError):
        cause = "own"
    elif "orovod" in f"{type(error).__name__} {error}" or isinstance(error, EOFError):
        # what the others see when one rank leaves
        cause = "peer"
    return {
        "kind": "failed",
        "cause": cause,
        "type": type(error).__name__,
        "message": str(error).strip(),
        "traceback": traceback.format_exc(),
        "phase": phase,
    }
