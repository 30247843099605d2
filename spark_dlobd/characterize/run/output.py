"""The folder of a sweep: results, logs and what is made from them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spark_dlobd.characterize.results.file import ResultsFile
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.characterize.sweep.spec import Sweep
from spark_dlobd.errors import PersistenceError

_SCRATCH_PREFIX = "spark-dlobd-sweep-"


@dataclass(frozen=True)
class OutputFolder:
    """Where a sweep writes.

    Attributes
    ----------
    path : Path
        The folder. It holds ``results.jsonl``, ``logs/<case id>.log``, ``index.html``,
        ``figures/``, ``results.md`` and ``summary.txt``.
    """

    path: Path

    @property
    def results(self) -> ResultsFile:
        """The results."""
        return ResultsFile(self.path / "results.jsonl")

    @property
    def page(self) -> Path:
        """The page."""
        return self.path / "index.html"

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.path / "figures"

    @property
    def table(self) -> Path:
        """The results as a Markdown table."""
        return self.path / "results.md"

    def log(self, case: Case) -> Path:
        """What the process of a case printed."""
        return self.path / "logs" / f"{case.id}.log"

    @contextmanager
    def locked(self) -> Iterator[Path]:
        """Keep other sweeps out; give a folder for temporary files, gone at the end.

        What a killed sweep on this folder has left of its temporary files is removed.

        Raises
        ------
        PersistenceError
            If another sweep is at work here, or the folder cannot be written.
        """
        with _lock_file(self.path / ".lock") as file:
            for folder in _noted(file):
                shutil.rmtree(folder, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX))
            try:
                _note(file, {"pid": os.getpid(), "scratch": str(scratch)})
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def describe(self, sweep: Sweep) -> None:
        """Note what the page cannot know from results."""
        with writing(self.path):
            text = json.dumps({"name": sweep.name, "left_out": list(sweep.left_out)}, indent=2)
            _put(self.path / "sweep.json", text + "\n")

    def description(self) -> tuple[str, tuple[str, ...]]:
        """Name and combinations left out of the last sweep here."""
        try:
            found = json.loads((self.path / "sweep.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return "DLoBD characterization", ()
        except (OSError, ValueError) as error:
            raise PersistenceError(
                f"{self.path / 'sweep.json'} cannot be read: {error}. Remove it."
            ) from error
        return str(found["name"]), tuple(found["left_out"])

    def write(self, records: Sequence[CaseRecord]) -> None:
        """Draw the figures and write page and tables from all results. Runs on the driver."""
        from spark_dlobd.characterize.show.figures import draw_figures, save_figures
        from spark_dlobd.characterize.show.page import render_page
        from spark_dlobd.characterize.show.tables import markdown, summary_text

        name, left_out = self.description()
        drawn = draw_figures(records)
        with writing(self.path):
            save_figures(drawn, self.figures)
            notes = [f"Left out: {reason}." for reason in left_out]
            _put(self.page, render_page(records, name, notes=notes, drawn=drawn))
            _put(self.table, markdown(records))
            _put(self.path / "summary.txt", summary_text(records))


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a full or protected disk into an error that says how to go on."""
    try:
        yield
    except OSError as error:
        raise PersistenceError(
            f"{folder} cannot be written: {error}. Make room or make it writable, and start the "
            "sweep again: it goes on there."
        ) from error


def _put(path: Path, text: str) -> None:
    """Write a file whole, or leave the one that is there."""
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


@contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PersistenceError(
                f"Another sweep is at work in {path.parent}. Wait for it or name another folder."
            ) from error
        yield file
    finally:
        os.close(file)


def _noted(file: int) -> list[Path]:
    """Temporary folder of the sweep that was here before."""
    try:
        noted = json.loads(os.pread(file, 1 << 16, 0) or b"{}")
        folder = Path(noted.get("scratch", ""))
    except (ValueError, AttributeError, TypeError):
        return []  # a note that was cut off names nothing that could be removed
    return [folder] if folder.name.startswith(_SCRATCH_PREFIX) else []


def _note(file: int, content: dict[str, Any]) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(content).encode(), 0)
