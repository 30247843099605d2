"""What a sweep will run, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from spark_dlobd.characterize.subjects.datasets import get_dataset
from spark_dlobd.characterize.subjects.models import get_model
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.characterize.sweep.spec import Sweep
from spark_dlobd.characterize.sweep.transports import get_transport
from spark_dlobd.report.words import about_text

if TYPE_CHECKING:
    from rich.table import Table

Estimate = Callable[[Case], "float | None"]


def dry_run_table(
    sweep: Sweep, estimate: Estimate | None = None, done: Collection[str] = ()
) -> Table:
    """Lay out what will run, one line a combination. Runs on the driver.

    Parameters
    ----------
    sweep : Sweep
        What was asked for.
    estimate : callable, optional
        Case to expected seconds, or None where it cannot say.
    done : collection of str
        Ids of cases that have a result and will not run again.

    Returns
    -------
    rich.table.Table
        `announcement` has what to print below it.
    """
    from rich.table import Table

    links = any(case.link_mbit for case in sweep.cases)
    table = Table(title=sweep.name, title_justify="left")
    headers = ["model", "data", "backend", "transport", "workers", "batch", "gradients"]
    headers += ["link"] if links else []
    for header in [*headers, "runs", "done", "about"]:
        numeric = header in ("workers", "batch", "runs", "done", "about", "link")
        table.add_column(header, justify="right" if numeric else "left")
    for cases in _settings(sweep.cases):
        table.add_row(*_row(cases, links, estimate, done))
    return table


def _settings(cases: Collection[Case]) -> list[list[Case]]:
    groups: dict[object, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.setting, []).append(case)
    return list(groups.values())


def _row(
    cases: list[Case], links: bool, estimate: Estimate | None, done: Collection[str]
) -> list[str]:
    case = cases[0]
    row = [
        get_model(case.model).title,
        get_dataset(case.data).title,
        case.backend,
        get_transport(case.transport).title,
        str(case.workers),
        str(case.batch_size),
        "fp32" if case.compression == "none" else case.compression,
    ]
    if links:
        row.append(f"{case.link_mbit} Mbit/s" if case.link_mbit else "own")
    remaining = [case for case in cases if case.id not in done]
    seconds = _total(remaining, estimate)
    about = "?" if seconds is None else about_text(seconds) if remaining else "-"
    return [*row, str(len(cases)), str(len(cases) - len(remaining)), about]


def _total(cases: Collection[Case], estimate: Estimate | None) -> float | None:
    if estimate is None:
        return None
    seconds = [estimate(case) for case in cases]
    known = [value for value in seconds if value is not None]
    return sum(known) if len(known) == len(seconds) else None


def announcement(
    sweep: Sweep, estimate: Estimate | None = None, done: Collection[str] = ()
) -> list[str]:
    """Say how much runs and for how long, and what does not; parameters as `dry_run_table`."""
    remaining = [case for case in sweep.cases if case.id not in done]
    seconds = _total(remaining, estimate)
    about = f", about {about_text(seconds)}" if seconds is not None and remaining else ""
    longest = about_text(sum(case.time_limit_s for case in remaining))
    lines = [
        f"{len(remaining)} of {len(sweep.cases)} runs to do{about}; "
        f"by their time limits {longest} at most."
    ]
    titles = {get_dataset(case.data) for case in sweep.cases}
    if generated := sorted(entry.name for entry in titles if entry.generated):
        lines.append(f"Drawn by a program, not real images: {', '.join(generated)}.")
    return lines + [f"Left out: {reason}." for reason in sweep.left_out]
