"""Results as tables: for the page, for the terminal and for a README. Pure."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spark_dlobd.characterize.results.comparison import (
    Measured,
    Runs,
    Series,
    Workload,
    efficiencies,
    workloads,
)
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.show.figures import TARGET_ACCURACY

if TYPE_CHECKING:
    from rich.table import Table

_SHORT_HEADERS = ("end to end, s", "s/epoch", "images/s", "efficiency", "accuracy", "runs")
_SHORT_CELLS = (0, 1, 2, 3, 5, 7)
_SUMMARY_WIDTH = 110


@dataclass(frozen=True)
class Row:
    """Numbers of one stack on one number of workers, as texts.

    Attributes
    ----------
    stack : str
        Backend and transport.
    workers, batch : int
        Workers, and rows of a step over all of them.
    cells : tuple of str
        End-to-end seconds, seconds per epoch, images per second, efficiency, seconds to
        the target accuracy, test accuracy, what limits, and runs that finished.
    """

    stack: str
    workers: int
    batch: int
    cells: tuple[str, ...]

    @property
    def short(self) -> tuple[str, ...]:
        """The cells that fit a terminal."""
        return tuple(self.cells[index] for index in _SHORT_CELLS)


@dataclass(frozen=True)
class WorkloadTable:
    """All numbers of one workload.

    Attributes
    ----------
    title : str
        Model and data.
    generated : bool
        Whether the data were drawn by a program.
    rows : tuple of Row
        By stack, then by workers.
    """

    title: str
    generated: bool
    rows: tuple[Row, ...]


def result_tables(
    records: Iterable[CaseRecord], target: float = TARGET_ACCURACY
) -> list[WorkloadTable]:
    """Lay out results, a table for each model on its data."""
    return [_table(workload, target) for workload in workloads(records)]


def summary(table: WorkloadTable) -> Table:
    """Lay out a table for the terminal."""
    from rich.table import Table

    laid_out = Table(title=table.title, title_justify="left")
    laid_out.add_column("stack", overflow="fold")
    for header in ("workers", *_SHORT_HEADERS):
        laid_out.add_column(header, justify="right")
    for row in table.rows:
        laid_out.add_row(row.stack, str(row.workers), *row.short)
    return laid_out


def summary_text(records: Iterable[CaseRecord]) -> str:
    """All summaries as plain text."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=_SUMMARY_WIDTH)
    for table in result_tables(records):
        console.print(summary(table))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def markdown(records: Iterable[CaseRecord]) -> str:
    r"""All results as Markdown, a heading and a table a workload.

    Examples
    --------
    >>> markdown([])
    'No results.\n'
    """
    parts = [_markdown_table(table) for table in result_tables(records)]
    return "\n".join(parts) or "No results.\n"


def _markdown_table(table: WorkloadTable) -> str:
    headers = ("stack", "workers", *_SHORT_HEADERS)
    lines = [f"### {table.title}", "", _line(headers), _line(["---", *["---:"] * 7])]
    lines += [_line([row.stack, str(row.workers), *row.short]) for row in table.rows]
    return "\n".join([*lines, ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _table(workload: Workload, target: float) -> WorkloadTable:
    rows = [
        _row(one, runs, efficiencies(one).get(workers), target)
        for one in workload.series
        for workers, runs in one.runs.items()
    ]
    return WorkloadTable(workload.title, workload.generated, tuple(rows))


def _row(one: Series, runs: Runs, efficiency: float | None, target: float) -> Row:
    case = runs.case
    shown = None if efficiency is None or case.backend == "local" else efficiency
    accuracy = runs.measure(lambda record: record.test_accuracy)
    limits = dict.fromkeys(
        record.report["limit"]["by"] for record in runs.finished if record.report.get("limit")
    )
    cells = (
        _number(runs.measure(lambda record: record.seconds)),
        _number(runs.measure(lambda record: record.seconds_per_epoch)),
        _number(runs.measure(lambda record: record.rows_per_second)),
        "" if shown is None else f"{100 * shown:.0f} %",
        _number(runs.measure(lambda record: record.seconds_to(target))),
        "" if accuracy is None else f"{100 * accuracy.mean:.1f} %",
        ", ".join(limits),
        f"{len(runs.finished)} of {len(runs.records)}",
    )
    return Row(one.label, case.workers, case.batch_size, cells)


def _number(mean: Measured | None) -> str:
    """Mean and deviation to three digits, e.g. ``12.3 ± 0.4``."""
    if mean is None:
        return ""
    text = _three_digits(mean.mean)
    return text if mean.runs < 2 else f"{text} ± {mean.std:.2g}"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
