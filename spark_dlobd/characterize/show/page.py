"""One self-contained HTML page of a sweep's results."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spark_dlobd.characterize.results.comparison import workloads
from spark_dlobd.characterize.results.predictions import check_sweep
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.show.figures import TARGET_ACCURACY, UTILIZATION, Drawn, draw_figures
from spark_dlobd.characterize.show.findings import Finding, find
from spark_dlobd.characterize.show.style import color
from spark_dlobd.characterize.show.tables import result_tables
from spark_dlobd.characterize.show.verdict import Contest, contests, verdict
from spark_dlobd.characterize.subjects.datasets import get_dataset
from spark_dlobd.characterize.subjects.models import get_model
from spark_dlobd.characterize.sweep.transports import get_transport
from spark_dlobd.report import look
from spark_dlobd.report.pages import render
from spark_dlobd.report.words import about_text, count_text

__all__ = ["render_page", "write_page"]

_TEMPLATE = "spark_dlobd.characterize.show/page.html.j2"
_MACHINE_FIRST = ("cpu", "cores", "memory_gib", "gpus", "hosts", "os", "python")


def write_page(
    path: Path,
    records: Iterable[CaseRecord],
    name: str = "DLoBD characterization",
    *,
    target: float = TARGET_ACCURACY,
    notes: Sequence[str] = (),
    drawn: Sequence[Drawn] | None = None,
) -> None:
    """Write `render_page` to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = render_page(records, name, target=target, notes=notes, drawn=drawn)
    path.write_text(text, encoding="utf-8")


def render_page(
    records: Iterable[CaseRecord],
    name: str = "DLoBD characterization",
    *,
    target: float = TARGET_ACCURACY,
    notes: Sequence[str] = (),
    drawn: Sequence[Drawn] | None = None,
) -> str:
    """Return the page: verdict, findings, figures, every number, and what failed.

    Runs on the driver. The page needs no other file and no network.

    Parameters
    ----------
    records : iterable of CaseRecord
        All results of a sweep.
    name : str
        Its title.
    target : float, default 0.7
        Accuracy whose time is compared.
    notes : sequence of str
        What readers should know too, e.g. combinations that were left out.
    drawn : sequence of Drawn, optional
        Figures, where they were drawn already.
    """
    records = list(records)
    if drawn is None:
        drawn = draw_figures(records, target)
    found = contests(records)
    return render(
        _TEMPLATE,
        title=name,
        when=_when(records),
        verdict=verdict(found),
        contests=[_bars(contest) for contest in found],
        against_one=any(entry.local for contest in found for entry in contest.entries),
        facts=_facts(records),
        topics=_topics(find(records, target)),
        groups=_groups(drawn),
        tables=result_tables(records, target),
        predicted=_predicted(records),
        target=f"{100 * target:g} %",
        failures=[record for record in records if not record.finished],
        machines=_machines(records),
        sources=_sources(records),
        notes=[*_generated(records), *notes],
        repeated=_repeated(records),
    )


def _predicted(records: Sequence[CaseRecord]) -> dict[str, Any]:
    """Predictions of the cost model next to what was measured."""
    checked = check_sweep(records)
    errors = [abs(one.relative_error) for one in checked]
    return {
        "largest": f"{100 * max(errors, default=0):.0f} %",
        "median": f"{100 * statistics.median(errors or [0]):.0f} %",
        "rows": [
            {
                "subject": f"{get_model(one.case.model).title} on "
                f"{get_dataset(one.case.data).title}",
                "stack": get_transport(one.case.transport).title,
                "workers": one.case.workers,
                "predicted": f"{one.predicted_s:.3g}",
                "measured": f"{one.measured_s:.3g}",
                "error": f"{100 * one.relative_error:+.0f} %",
            }
            for one in checked
        ],
    }


def _topics(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    topics: dict[str, dict[str, Any]] = {}
    for finding in findings:
        topic = topics.setdefault(
            finding.topic,
            {"topic": finding.topic, "literature": finding.literature, "found": []},
        )
        topic["found"].append(finding)
    return list(topics.values())


def _groups(drawn: Sequence[Drawn]) -> list[dict[str, Any]]:
    """Figures by kind, so that models stand side by side; of one model, all together."""
    from markupsafe import Markup

    kinds: dict[str, list[dict[str, Any]]] = {}
    for one in drawn:
        described = f"{one.kind}, {one.subject}. {one.caption}"
        kinds.setdefault(one.kind, []).append(
            {
                "name": one.name,
                "kind": one.kind,
                "subject": one.subject,
                "caption": one.caption,
                "generated": one.generated,
                "picture": Markup(look.svg(one.figure, described)),
            }
        )
    folded = kinds.pop(UTILIZATION, [])
    groups = [{"kind": kind, "figures": figures} for kind, figures in kinds.items()]
    if groups and all(len(figures) == 1 for figures in kinds.values()):
        groups = [{"kind": "", "figures": [one for (one,) in kinds.values()]}]
    groups += [{"kind": UTILIZATION, "figures": folded}] if folded else []
    return [{**group, "folded": group["kind"] == UTILIZATION} for group in groups]


def _bars(contest: Contest) -> dict[str, Any]:
    """A contest as bars, the fastest as long as there is room."""
    return {
        "title": contest.title,
        "generated": contest.workload.generated,
        "bars": [
            {
                "title": entry.title,
                "number": entry.number,
                "percent": f"{100 * entry.rate.mean / contest.first.rate.mean:.1f}",
                "color": color(entry.series),
            }
            for entry in contest.entries
        ],
    }


def _facts(records: Sequence[CaseRecord]) -> list[str]:
    """What was run, how often and where, in a few words each."""
    if not records:
        return []
    finished = [record for record in records if record.finished]
    counts = ", ".join(map(str, sorted({record.case.workers for record in records})))
    stacks = {(record.case.transport, record.case.compression) for record in records}
    how_often = "repeated ones as means" if _repeated(records) else "one of each"
    return [
        f"{len(finished)} of {len(records)} runs finished, {how_often}",
        count_text(len({record.case.model for record in records}), "model"),
        count_text(len(stacks), "stack"),
        "1 worker" if counts == "1" else f"{counts} workers",
        f"{about_text(sum(record.seconds or 0.0 for record in finished))} measured",
        *dict.fromkeys(
            f"{machine['cpu']}, {count_text(machine['cores'], 'core')}"
            for record in records
            if {"cpu", "cores"} <= (machine := record.machine).keys()
        ),
    ]


def _repeated(records: Sequence[CaseRecord]) -> bool:
    return any(workload.repeated for workload in workloads(records))


def _when(records: Sequence[CaseRecord]) -> str:
    times = [record.started for record in records if record.started is not None]
    if not times:
        return ""
    days = [
        datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d")
        for time in (min(times), max(times))
    ]
    return days[0] if days[0] == days[1] else f"{days[0]} to {days[1]}"


def _generated(records: Sequence[CaseRecord]) -> list[str]:
    names = sorted({record.case.data for record in records if record.data.get("generated")})
    return [
        f"Generated data: {name} has images that a program drew in the shape of the real ones. "
        "Speeds are those of such shapes; accuracies say nothing about the real data."
        for name in names
    ]


def _sources(records: Sequence[CaseRecord]) -> list[dict[str, Any]]:
    """Models and data, each once."""
    found = {
        (record.case.model, record.case.data, record.data["rows"]): record
        for record in records
        if record.data
    }
    return [
        {
            "model": get_model(record.case.model),
            "data": record.data,
            "shape": "x".join(map(str, record.data["shape"])),
        }
        for record in found.values()
    ]


def _machines(records: Sequence[CaseRecord]) -> list[list[tuple[str, str]]]:
    """Distinct machines, each as names and values."""
    machines: list[dict[str, Any]] = []
    for record in records:
        if record.machine and record.machine not in machines:
            machines.append(record.machine)
    return [
        [(name.replace("_", " "), _text(machine[name])) for name in _ordered(machine)]
        for machine in machines
    ]


def _ordered(machine: dict[str, Any]) -> list[str]:
    first = [name for name in _MACHINE_FIRST if name in machine]
    return [*first, *(name for name in machine if name not in first)]


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
