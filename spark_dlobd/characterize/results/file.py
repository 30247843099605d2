"""The results of a sweep in a file of JSON lines that survives being killed."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.errors import DLError, PersistenceError

logger = logging.getLogger("spark_dlobd")

__all__ = ["Results", "ResultsFile"]


@dataclass(frozen=True)
class Results:
    """What a file holds.

    Attributes
    ----------
    records : tuple of CaseRecord
        One a case: the newest, in the order in which cases first came.
    torn : str or None
        What was ignored at the end of the file, in words.
    """

    records: tuple[CaseRecord, ...]
    torn: str | None = None

    def done(self, retry_failed: bool = False) -> set[str]:
        """Ids of cases that need not run again.

        Parameters
        ----------
        retry_failed : bool, default False
            Whether cases that failed or ran into their time limit shall run again.
        """
        return {r.case.id for r in self.records if r.finished or not retry_failed}


class ResultsFile:
    """One line a case, on disk before `append` returns. Runs on the driver.

    Parameters
    ----------
    path : path-like
        The file; it is made by the first `append`.

    Examples
    --------
    >>> results = ResultsFile("results.jsonl")  # doctest: +SKIP
    >>> remaining = [c for c in sweep.cases if c.id not in results.read().done()]  # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, record: CaseRecord) -> None:
        """Add one record.

        What a killed writer left of its last line is removed first. If the disk is full
        the file stays as it was.

        Raises
        ------
        PersistenceError
            If the record cannot be written.
        """
        line = json.dumps(record.to_json(), allow_nan=False).encode() + b"\n"
        try:
            with self._locked() as file:
                end = _whole_lines(file)
                file.truncate(end)
                try:
                    file.seek(end)
                    _write_all(file, line)
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), end)
                    raise
        except OSError as error:
            raise PersistenceError(
                f"The result of {record.case.id} cannot be written to {self.path}: {error}. "
                "Make room or make it writable, and start the sweep again: it goes on there."
            ) from error

    def read(self) -> Results:
        """Return all records; a file that is not there has none.

        Raises
        ------
        PersistenceError
            If the file cannot be read, or a line before the last is broken.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return Results(())
        except OSError as error:
            raise PersistenceError(f"{self.path} cannot be read: {error}") from error
        *lines, rest = content.split(b"\n")
        records: dict[str, CaseRecord] = {}
        for number, line in enumerate(lines, 1):
            record = self._record(number, line)
            records[record.case.id] = record
        torn = None
        if rest:
            torn = (
                f"Line {len(lines) + 1} of {self.path} was cut off after {len(rest)} bytes and is "
                "ignored: its case runs again."
            )
            logger.warning("%s", torn)
        return Results(tuple(records.values()), torn)

    def _record(self, number: int, line: bytes) -> CaseRecord:
        try:
            return CaseRecord.from_json(json.loads(line))
        except (ValueError, AttributeError, DLError) as error:
            raise PersistenceError(
                f"Line {number} of {self.path} is not a result: {error}. Remove the line, and its "
                "case runs again; or name another file."
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[RawIOBase]:
        """The file, made if need be, for one writer at a time."""
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # unbuffered, so that a failed write leaves nothing for close() to try again
        with open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PersistenceError(
                    f"Another sweep writes to {self.path}. Wait for it or name another file."
                ) from error
            yield file
        if new:
            _sync_directory(self.path.parent)


def _whole_lines(file: RawIOBase) -> int:
    """Bytes up to the end of the last whole line."""
    file.seek(0)
    return (file.read() or b"").rfind(b"\n") + 1


def _write_all(file: RawIOBase, content: bytes) -> None:
    """Write on after a part was taken, as a disk that is filling up does."""
    while content:
        content = content[file.write(content) or 0 :]


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
