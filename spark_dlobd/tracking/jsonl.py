"""Records of a fit as JSON lines: a spool for deliveries and a tracker of its own."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
import weakref
from pathlib import Path
from typing import Any

from spark_dlobd.tracking.base import Tracker
from spark_dlobd.tracking.encoding import jsonable

logger = logging.getLogger("spark_dlobd.tracking")

RUN_ID_TAG = "spark_dlobd.run_id"
"""Tag that carries the id of the fit; names the file of kept records."""

Record = dict[str, Any]


def start_record(params: dict[str, Any], tags: dict[str, str]) -> Record:
    """Record of ``Tracker.start``."""
    return {"kind": "start", "params": params, "tags": tags}


def step_record(epoch: int, step: int, global_step: int, metrics: dict[str, float]) -> Record:
    """Record of ``Tracker.step``."""
    return {
        "kind": "step",
        "epoch": epoch,
        "step": step,
        "global_step": global_step,
        "metrics": metrics,
    }


def epoch_record(epoch: int, metrics: dict[str, float]) -> Record:
    """Record of ``Tracker.epoch``."""
    return {"kind": "epoch", "epoch": epoch, "metrics": metrics}


def report_record(status: str, history: dict[str, list[float]], report: dict[str, Any]) -> Record:
    """Record of ``Tracker.finish``."""
    return {"kind": "report", "status": status, "history": history, "report": report}


def kept_path(run_id: str, directory: str | Path | None = None) -> Path:
    """Where the records of a fit are kept: ``<directory>/spark_dlobd-metrics-<run_id>.jsonl``."""
    return Path(directory or Path.cwd()) / f"spark_dlobd-metrics-{run_id}.jsonl"


class Spool:
    """A temporary file of records, written by any thread and read by one.

    It is a queue without limit in length that costs no memory: the reader keeps
    only the offset up to which it has delivered. End it with `keep` or
    `discard`; an abandoned spool is removed when the interpreter exits.
    """

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="spark_dlobd-metrics-", suffix=".jsonl")
        self.path = Path(name)
        self.written = 0
        self._lock = threading.Lock()
        self._file = os.fdopen(handle, "w", encoding="utf-8")
        self._cleanup = weakref.finalize(self, _remove, name)

    def append(self, record: Record) -> None:
        """Write one record with the time in seconds since the epoch, visible at once."""
        line = _line(record)
        with self._lock:
            self._file.write(line)
            self._file.flush()
            self.written += 1

    def read(self, offset: int, limit: int) -> tuple[list[Record], int]:
        """Return up to `limit` whole records after `offset`, and the offset after them."""
        records: list[Record] = []
        with self.path.open("rb") as reader:
            reader.seek(offset)
            while len(records) < limit:
                line = reader.readline()
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                records.append(json.loads(line))
        return records, offset

    def keep(self, target: Path) -> Path:
        """Move the file to `target`; return where it is now.

        Where `target` cannot be written the file stays at its temporary path.
        """
        self._file.close()
        self._cleanup.detach()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(self.path, target)
        except OSError as error:
            logger.warning("Cannot write %s (%s); the records stay elsewhere.", target, error)
        else:
            self.path = target
        return self.path

    def discard(self) -> None:
        """Remove the file."""
        self._file.close()
        self._cleanup()


class RecordTracker(Tracker):
    """Makes a record of everything it hears while a fit runs."""

    def _append(self, record: Record) -> None:
        raise NotImplementedError

    def dataset(self, description: dict[str, Any]) -> None:
        """Note what is trained on, as `reporter.describe_dataset` describes it."""
        self._append({"kind": "dataset", **description})

    def step(self, epoch: int, step: int, global_step: int, metrics: dict[str, float]) -> None:
        """Metrics of one training step."""
        self._append(step_record(epoch, step, global_step, metrics))

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Metrics of a whole epoch."""
        self._append(epoch_record(epoch, metrics))

    def finish(
        self,
        status: str,
        history: dict[str, list[float]],
        report: dict[str, Any],
        model: Any | None,
    ) -> None:
        """End the fit."""
        self._append(report_record(status, history, report))
        self._end(status, model)

    def _end(self, status: str, model: Any | None) -> None:
        """Do what is to be done after the last record."""


class JsonLinesTracker(Tracker):
    """Writes every record of fits to a local file, one JSON object a line.

    Runs on the driver. Records have a ``kind``: ``start`` (params and tags),
    ``dataset``, ``step``, ``epoch`` and ``report``, and a ``time`` in seconds
    since the epoch. NaN and infinities are the strings ``"NaN"``, ``"Infinity"``
    and ``"-Infinity"``.

    Parameters
    ----------
    path : str or Path, optional
        The file. Default ``./spark_dlobd-metrics-<run id>.jsonl``. Records of a
        later fit are appended.

    Examples
    --------
    >>> tracker = JsonLinesTracker("metrics.jsonl")  # doctest: +SKIP
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._given = Path(path) if path is not None else None
        self._lock = threading.Lock()
        self._last: JsonLinesRecorder | None = None

    @property
    def path(self) -> Path | None:
        """The file; without a given one that of the last fit, None before it has begun."""
        return self._given or (self._last.path if self._last else None)

    def new(self) -> JsonLinesRecorder:
        """Return what writes one fit; fits may run at the same time."""
        self._last = JsonLinesRecorder(self._given, self._lock)
        return self._last


class JsonLinesRecorder(RecordTracker):
    """Writes one fit to a local file. Runs on the driver.

    Parameters
    ----------
    path : Path or None
        The file; None is one named after the fit.
    lock : threading.Lock
        Of all that write to it.
    """

    def __init__(self, path: Path | None, lock: threading.Lock) -> None:
        self.path = path
        self._lock = lock

    def start(self, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Begin a fit."""
        self.path = self.path or kept_path(tags.get(RUN_ID_TAG) or uuid.uuid4().hex)
        self._append(start_record(params, tags))

    def _append(self, record: Record) -> None:
        assert self.path is not None  # since `start`
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(_line(record))


def _line(record: Record) -> str:
    """A record with the time in seconds since the epoch."""
    return json.dumps(jsonable({**record, "time": time.time()}), allow_nan=False) + "\n"


def _remove(name: str) -> None:
    Path(name).unlink(missing_ok=True)
