"""Delivers a spool to a server from one daemon thread, within a budget of seconds.

The spool is the queue: a producer only appends a line to a local file, the thread
reads on from where the last delivery ended. A server that is down therefore costs
neither memory nor training time, and one that comes back gets the rest.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from spark_dlobd.tracking.encoding import redact
from spark_dlobd.tracking.jsonl import Record, Spool

logger = logging.getLogger("spark_dlobd.tracking")

BUNCH_RECORDS = 500
_LONGEST_PAUSE_S = 60.0
_OPEN_AFTER_FAILURES = 2


class Sink(Protocol):
    """Where records go. All methods run on the delivery thread and may raise."""

    @property
    def target(self) -> str:
        """Name of the server in messages, without credentials."""

    def send(self, records: list[Record]) -> None:
        """Deliver; called again with the same records after an exception."""

    def upload(self, model: Any | None) -> None:
        """Deliver what is large, after all records."""

    def close(self, status: str) -> None:
        """End the run; also called when something before failed."""


@dataclass(frozen=True)
class Limits:
    """How long a server may keep a fit waiting.

    Attributes
    ----------
    close_timeout_s : float
        Longest wait at the end of a fit for records to arrive.
    upload_timeout_s : float
        Longest wait for the artifacts and the model of a healthy server, on top.
    flush_s : float
        Pause between two deliveries while the training runs.
    retry_s : float
        Pause after the first failure; doubles with each one up to 60 s.
    """

    close_timeout_s: float = 20.0
    upload_timeout_s: float = 300.0
    flush_s: float = 1.0
    retry_s: float = 2.0


class Delivery:
    """The thread between a spool and a sink. Runs on the driver.

    Parameters
    ----------
    spool : Spool
        Holds the records; its owner appends to it at any time.
    sink : Sink
        Receives them.
    limits : Limits
        Budget of seconds.
    clock : callable, optional
        Seconds that only grow.
    """

    def __init__(
        self,
        spool: Spool,
        sink: Sink,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._sink = sink
        self._limits = limits
        self._clock = clock
        self._offset = 0
        self._failures = 0
        self._error = ""
        self._next_try = clock()
        self._finishing = threading.Event()
        self._abandoned = threading.Event()
        self._records_done = threading.Event()
        self._done = threading.Event()
        self._status = "FINISHED"
        self._model: Any | None = None
        # The caller's context carries what MLflow keeps in context variables.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="spark-dlobd-tracking", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def finish(self, status: str, model: Any | None) -> str | None:
        """Deliver the rest, end the run and wait for it within the limits.

        Returns
        -------
        str or None
            Why not everything was delivered, without credentials; None when it was.
        """
        self._status, self._model = status, model
        self._finishing.set()
        if self._records_done.wait(self._limits.close_timeout_s):
            self._done.wait(self._limits.upload_timeout_s)
        if not self._done.is_set():
            self._abandoned.set()
            return self._error or "no answer within the time a fit may wait"
        return self._error or None

    def _run(self) -> None:
        try:
            while not self._finishing.wait(self._pause()):
                self._attempt()
            self._end()
        except Exception as error:
            self._error = describe(error)
            logger.exception("Delivery to %s ended.", self._sink.target)
        finally:
            self._records_done.set()
            self._done.set()
            self._model = None

    def _pause(self) -> float:
        return max(0.0, self._next_try - self._clock())

    def _attempt(self) -> bool:
        """Send everything there is; True when it arrived."""
        try:
            while not self._abandoned.is_set():
                records, after = self._spool.read(self._offset, BUNCH_RECORDS)
                if not records:
                    break
                self._sink.send(records)
                self._offset = after
        except Exception as error:
            self._failed(error)
            return False
        self._failures = 0
        self._error = ""
        self._next_try = self._clock() + self._limits.flush_s
        return True

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._error = describe(error)
        pause = self._limits.retry_s * 2 ** (self._failures - 1)
        self._next_try = self._clock() + min(pause, _LONGEST_PAUSE_S)
        if self._failures == _OPEN_AFTER_FAILURES and not self._finishing.is_set():
            logger.warning(
                "%s does not take metrics (%s). Training goes on; they are kept in %s "
                "and sent when the server answers again.",
                self._sink.target,
                self._error,
                self._spool.path,
            )

    def _end(self) -> None:
        # One last try for a server that may be back; a second one only if it has
        # been healthy so far, because each may cost a full request timeout.
        arrived = self._attempt() or (self._failures == 1 and self._attempt())
        if not arrived or self._abandoned.is_set():
            return
        self._records_done.set()
        try:
            self._sink.upload(self._model)
        except Exception as error:
            self._error = describe(error)
            logger.debug("Upload to %s failed.", self._sink.target, exc_info=True)
        try:
            self._sink.close(self._status)
        except Exception as error:
            self._error = self._error or describe(error)


def describe(error: BaseException) -> str:
    """One line about an exception, without credentials."""
    text = redact(str(error)).strip().splitlines()
    line = text[0] if text else ""
    return f"{type(error).__name__}: {line[:500]}"
