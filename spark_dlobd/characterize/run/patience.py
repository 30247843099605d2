"""Work that is waited for only so long."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger("spark_dlobd")


class Helper:
    """A daemon thread that does one thing after the other.

    Parameters
    ----------
    name : str
        Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._work: queue.Queue[tuple[Callable[[], None], _Outcome]] = queue.Queue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def do(self, work: Callable[[], None], limit_s: float) -> str | None:
        """Do it; return None if it was done, else what went wrong, in words."""
        outcome = _Outcome()
        self._work.put((work, outcome))
        if not outcome.over.wait(limit_s):
            return f"no answer within {limit_s:g} s"
        return outcome.problem

    def _serve(self) -> None:
        while True:
            work, outcome = self._work.get()
            try:
                work()
            except Exception as error:  # told to whoever asked for the work
                logger.debug("%s failed", threading.current_thread().name, exc_info=True)
                outcome.problem = f"{type(error).__name__}: {error}"
            outcome.over.set()


class _Outcome:
    def __init__(self) -> None:
        self.over = threading.Event()
        self.problem: str | None = None
