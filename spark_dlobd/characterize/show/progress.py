"""What a sweep shows while it runs: bars on a terminal, else one line a case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spark_dlobd.characterize.results.estimate import Estimates
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.report.words import about_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


class SweepProgress:
    """A `Watcher` that shows cases done, the running case, and the time to go.

    Parameters
    ----------
    cases : sequence of Case
        Those that will run.
    console : rich.console.Console
        Where to show it. Bars are for terminals alone.
    """

    def __init__(self, cases: Sequence[Case], console: Console) -> None:
        self._remaining = list(cases)
        self._total = len(cases)
        self._console = console
        self._bars: Progress | None = None
        self._all: TaskID | None = None
        self._one: TaskID | None = None

    def __enter__(self) -> SweepProgress:
        if self._console.is_terminal and self._total:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
            )

            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[about]}"),
                console=self._console,
                refresh_per_second=1,  # drawing takes time from what is measured
                transient=True,
            )
            self._all = self._bars.add_task("cases", total=self._total, about="")
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def started(self, case: Case, records: tuple[CaseRecord, ...]) -> None:
        """Show the case and how long it and the rest will take."""
        if self._bars is None or self._all is None:
            return
        estimates = Estimates(records)
        remaining = sum(estimates.seconds(other) for other in self._remaining)
        self._bars.update(self._all, about=f"about {about_text(remaining)} to go")
        about = f"of about {about_text(estimates.seconds(case))}"
        self._one = self._bars.add_task(case.id, total=1, about=about)

    def ended(self, record: CaseRecord) -> None:
        """Leave a line about the case."""
        self._remaining = [case for case in self._remaining if case.id != record.case.id]
        if self._bars is not None and self._all is not None and self._one is not None:
            self._bars.remove_task(self._one)
            self._bars.advance(self._all)
        number = self._total - len(self._remaining)
        self._console.print(
            f"[{number}/{self._total}] {outcome(record)}", markup=False, highlight=False,
            soft_wrap=True,
        )  # fmt: skip


def outcome(record: CaseRecord) -> str:
    r"""One line about a result.

    Examples
    --------
    >>> case = Case("softmax", "generated-mnist", "local", "process", 1)
    >>> outcome(CaseRecord(case, "failed", error="DataError: cut off\n\nTraceback"))
    'softmax-generated-mnist-local-process-w1-b128-r1-c58740fa failed: DataError: cut off'
    """
    if not record.finished:
        reason = (record.error or "").split("\n", 1)[0]
        return f"{record.case.id} {record.status}: {reason}"
    parts = [] if record.seconds is None else [about_text(record.seconds)]
    if record.rows_per_second is not None:
        parts.append(f"{record.rows_per_second:,.0f} images/s")
    if record.test_accuracy is not None:
        parts.append(f"accuracy {100 * record.test_accuracy:.1f} %")
    return f"{record.case.id} finished: {', '.join(parts)}"
