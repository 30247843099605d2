"""Runs the cases of a sweep one after the other, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from spark_dlobd.characterize.results.machine import machine_facts
from spark_dlobd.characterize.results.predictions import explaining_cases
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.run.case_process import Ended, run_process
from spark_dlobd.characterize.run.case_request import CaseRequest, read_answer
from spark_dlobd.characterize.run.hosts import remove_stale
from spark_dlobd.characterize.run.output import OutputFolder, writing
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.characterize.sweep.spec import Sweep
from spark_dlobd.errors import PersistenceError

__all__ = ["RunOptions", "SweepEnd", "run_sweep"]

_LOG_LINES = 25
_LOG_TAIL_BYTES = 1 << 16
_DISK_FULL = "No space left on device"


@dataclass(frozen=True)
class RunOptions:
    """How cases run.

    Attributes
    ----------
    master : str or None
        Master URL; by default each case gets ``local`` with a slot a worker.
    conf : dict of str to str
        Further settings of the Spark session.
    cache_dir : str or None
        Where training rows are materialized; a cluster needs a folder that all reach.
    retry_failed : bool
        Whether cases that failed or ran into their time limit run again.
    explain : bool
        Whether one case of each model and data explains its fit, so that the page can
        compare what the cost model predicts with what was measured.
    """

    master: str | None = None
    conf: dict[str, str] = field(default_factory=dict)
    cache_dir: str | None = None
    retry_failed: bool = False
    explain: bool = True


class Watcher(Protocol):
    """Hears what a sweep does."""

    def started(self, case: Case, records: tuple[CaseRecord, ...]) -> None:
        """A case begins; `records` are all results so far."""

    def ended(self, record: CaseRecord) -> None:
        """A case has its result, which is on disk."""


@dataclass(frozen=True)
class SweepEnd:
    """How a sweep ended.

    Attributes
    ----------
    ran : tuple of CaseRecord
        Results of the cases that ran now.
    interrupted : bool
        Whether it was stopped before its end.
    """

    ran: tuple[CaseRecord, ...]
    interrupted: bool


def case_command(request: Path) -> list[str]:
    """The command of a case's process."""
    module = "spark_dlobd.characterize.run.case_main"
    return [sys.executable, "-m", module, str(os.getpid()), str(request)]


def run_sweep(
    sweep: Sweep,
    output: OutputFolder,
    scratch: Path,
    options: RunOptions,
    watchers: Sequence[Watcher] = (),
    interrupted: Callable[[], bool] = lambda: False,
    command: Callable[[Path], list[str]] = case_command,
) -> SweepEnd:
    """Run the cases that have no result yet. Runs on the driver.

    A case that fails or runs into its time limit gets a record that says so, and the
    sweep goes on. A case that is interrupted has no record, so that it runs again.

    Parameters
    ----------
    sweep : Sweep
        What to run.
    output : OutputFolder
        Where results and logs go; the caller holds its lock.
    scratch : Path
        A folder for temporary files.
    options : RunOptions
        How cases run.
    watchers : sequence of Watcher, optional
        Hear of each case, one after the other.
    interrupted : callable, optional
        Asked several times a second; true ends the running case and the sweep.
    command : callable, optional
        File of a `CaseRequest` to the command that runs it.

    Raises
    ------
    PersistenceError
        If results or logs cannot be written; what is written stays.
    """
    ran: list[CaseRecord] = []
    done = output.results.read().done(options.retry_failed)
    for case in sweep.cases:
        if case.id in done:
            continue
        if interrupted():
            return SweepEnd(tuple(ran), True)
        for watcher in watchers:
            watcher.started(case, output.results.read().records)
        folder = scratch / str(len(ran))
        record = _run(case, sweep, output, folder, options, interrupted, command)
        if record is None:
            return SweepEnd(tuple(ran), True)
        output.results.append(record)
        ran.append(record)
        for watcher in watchers:
            watcher.ended(record)
    return SweepEnd(tuple(ran), False)


def _run(
    case: Case,
    sweep: Sweep,
    output: OutputFolder,
    folder: Path,
    options: RunOptions,
    interrupted: Callable[[], bool],
    command: Callable[[Path], list[str]],
) -> CaseRecord | None:
    """Run one case; None if it was interrupted."""
    with writing(folder.parent):
        folder.mkdir()
        request = CaseRequest(
            case, folder, sweep.paths.get(case.data), options.master, dict(options.conf),
            options.cache_dir, options.explain and case.id in explaining_cases(sweep.cases),
        ).write()  # fmt: skip
    started = time.time()
    log = output.log(case)
    try:
        ended = run_process(
            command(request), log, case.time_limit_s, interrupted, {"TMPDIR": str(folder)}
        )
        answer = read_answer(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if case.link_mbit is not None:
            remove_stale()  # a case that was killed could not do it
    if ended.how == "interrupted":
        return None
    return _record(case, ended, answer, log, started, machine_facts(case, options.master))


def _record(
    case: Case,
    ended: Ended,
    answer: dict[str, Any] | None,
    log: Path,
    started: float,
    machine: dict[str, Any],
) -> CaseRecord:
    """What one case has come to."""
    common: dict[str, Any] = {
        "machine": machine, "started": started, "wall_seconds": ended.seconds
    }  # fmt: skip
    if answer is not None and "error" not in answer:
        return CaseRecord(case, "finished", **common, **answer)
    if ended.how == "timed out":
        error = (
            f"It was not done after its time limit of {case.time_limit_s:g} s (time_limit_s) and "
            f"was ended. {_tail(log)}"
        )
        return CaseRecord(case, "timed out", **common, error=error)
    if answer is None:
        error = f"Its process ended with {ended.text} and left no result. {_tail(log)}"
    else:
        error = str(answer["error"])
    if _DISK_FULL in error:
        raise PersistenceError(
            f"A disk became full while {case.id} ran; it has no result. Make room and start the "
            f"sweep again: it goes on there. The case said:\n{error}"
        )
    return CaseRecord(case, "failed", **common, error=error)


def _tail(log: Path) -> str:
    """The end of a log, as a sentence."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
    except OSError as error:
        return f"Its log {log} cannot be read: {error}"
    return "Its log ends with:\n" + "\n".join(lines) if lines else f"It printed nothing to {log}."
