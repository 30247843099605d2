"""Numbers and facts of a fit in words, with units. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any


def seconds_text(seconds: float) -> str:
    """A duration.

    Examples
    --------
    >>> seconds_text(0.0423), seconds_text(12.34), seconds_text(3725)
    ('0.042 s', '12.3 s', '1 h 2 min')
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 1:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    if seconds < 3600:
        whole = round(seconds)
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def about_text(seconds: float) -> str:
    """An estimated duration.

    Examples
    --------
    >>> about_text(42), about_text(150), about_text(5400), about_text(9000)
    ('42 s', '2.5 min', '90 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def bytes_text(count: float) -> str:
    """A number of bytes.

    Examples
    --------
    >>> bytes_text(38440), bytes_text(0), bytes_text(2.5e9)
    ('38.4 kB', '0 B', '2.50 GB')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            shown = count / size
            return f"{shown:.1f} {unit}" if shown >= 10 else f"{shown:.2f} {unit}"
    return f"{count:.0f} B"


def metric_text(value: Any) -> str:
    """A metric to four digits.

    Examples
    --------
    >>> metric_text(0.963888), metric_text(1234.5), metric_text("NaN")
    ('0.9639', '1234', 'nan')
    """
    return f"{float(value):.4g}"


def count_text(count: int, thing: str) -> str:
    """A number of things.

    Examples
    --------
    >>> count_text(1, "worker"), count_text(1437, "row")
    ('1 worker', '1,437 rows')
    """
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def workers_text(count: int) -> str:
    """A number of workers."""
    return count_text(count, "worker")


def fact_text(value: Any) -> str:
    """Any fact without a unit of its own; dicts and lists without their brackets."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_spaced(key)} {fact_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(fact_text(item) for item in value)
    return str(value)


def plan_text(plan: Mapping[str, Any]) -> str:
    """A shard plan, as `ShardPlan.describe` tells it.

    Examples
    --------
    >>> plan_text({"row_groups": 4, "rows_per_rank": {"min": 718, "max": 719}})
    '4 row groups, 718 to 719 rows a worker'
    """
    told = []
    if "row_groups" in plan:
        told.append(count_text(plan["row_groups"], "row group"))
    if bounds := plan.get("rows_per_rank"):
        least, most = bounds["min"], bounds["max"]
        rows = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        told.append(f"{rows} rows a worker")
    if tail := plan.get("tail_batch_size"):
        told.append(f"{count_text(tail, 'row')} in the last step")
    if "shuffle" in plan:
        told.append("new order every epoch" if plan["shuffle"] else "same order every epoch")
    return ", ".join(told) or fact_text(plan)


def rows_text(rows: Mapping[str, int]) -> str:
    """Rows of a fit, as ``FitReport.rows`` has them.

    Examples
    --------
    >>> rows_text({"train": 1437, "validation": 360})
    '1,437 rows to train, 360 to validate'
    """
    told = f"{count_text(rows.get('train', 0), 'row')} to train"
    return f"{told}, {rows['validation']:,} to validate" if rows.get("validation") else told


def date_text(started_at: str) -> str:
    """When a fit began, of an ISO 8601 time."""
    return datetime.fromisoformat(started_at).strftime("%Y-%m-%d %H:%M %Z").strip()


def network_text(network: Mapping[str, Any]) -> str:
    """A network in a few words.

    Examples
    --------
    >>> network_text({"name": "lenet", "class": "Sequential", "weights": 431080})
    'lenet (Sequential, 431,080 weights)'
    """
    inside = [network["class"]] if network.get("class") else []
    if network.get("weights") is not None:
        inside.append(count_text(network["weights"], "weight"))
    name = network.get("name") or "network"
    return f"{name} ({', '.join(inside)})" if inside else str(name)


def last_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of the last epoch, validation and accuracy first."""
    over_time = report.get("metrics_over_time") or {}
    found = {name: float(points[-1][2]) for name, points in over_time.items() if points}
    return dict(sorted(found.items(), key=lambda item: _rank(item[0])))


def _rank(name: str) -> tuple[bool, bool]:
    return name.removeprefix("val_") == "loss", not name.startswith("val_")


def how_text(report: Mapping[str, Any]) -> str:
    """What trained where, e.g. ``backend local, 1 worker, 1,437 rows``."""
    told = [f"backend {report['backend']}", workers_text(report["workers"])]
    if rows := report.get("rows"):
        told.append(rows_text(rows))
    return ", ".join(told)


def _spaced(key: object) -> str:
    return str(key).replace("_", " ")
