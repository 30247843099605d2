"""One self-contained HTML page of a sweep's results."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

from spark_dlobd.characterize.datasets import get_dataset
from spark_dlobd.characterize.dry_run import duration
from spark_dlobd.characterize.figures import TARGET_ACCURACY, Drawn, draw_figures
from spark_dlobd.characterize.findings import Finding, find
from spark_dlobd.characterize.models import get_model
from spark_dlobd.characterize.predictions import check_sweep
from spark_dlobd.characterize.record import CaseRecord
from spark_dlobd.characterize.tables import result_tables
from spark_dlobd.characterize.transports import get_transport

__all__ = ["render_page", "write_page"]

_TEMPLATE = "page.html.j2"
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
    """Return the page: findings, figures, every number, and what failed.

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
    import jinja2

    records = list(records)
    if drawn is None:
        drawn = draw_figures(records, target)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        name=name,
        when=_when(records),
        tiles=_tiles(records),
        generated=_generated(records),
        topics=_topics(find(records, target)),
        groups=_groups(drawn),
        tables=result_tables(records, target),
        predicted=_predicted(records),
        target=f"{100 * target:g} %",
        failures=[record for record in records if not record.finished],
        machines=_machines(records),
        sources=_sources(records),
        notes=list(notes),
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
    """Figures by kind, so that models stand side by side."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for one in drawn:
        data = base64.b64encode(one.svg().encode()).decode()
        kinds.setdefault(one.kind, []).append(
            {
                "name": one.name,
                "subject": one.subject,
                "caption": one.caption,
                "generated": one.generated,
                "source": f"data:image/svg+xml;base64,{data}",
            }
        )
    return [{"kind": kind, "figures": figures} for kind, figures in kinds.items()]


def _tiles(records: Sequence[CaseRecord]) -> list[tuple[str, str]]:
    finished = [record for record in records if record.finished]
    seconds = sum(record.seconds or 0.0 for record in finished)
    counts = sorted({record.case.workers for record in records})
    stacks = {(r.case.transport, r.case.compression, r.case.link_mbit) for r in records}
    return [
        ("runs finished", f"{len(finished)} of {len(records)}"),
        ("models", str(len({record.case.model for record in records}))),
        ("stacks", str(len(stacks))),
        ("workers", ", ".join(map(str, counts)) or "none"),
        ("measured time", duration(seconds)),
    ]


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
    return sorted({record.case.data for record in records if record.data.get("generated")})


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
