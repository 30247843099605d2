"""The facts of a report as rows of a table: name and value with its unit. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spark_dlobd.report import words

_Row = tuple[str, str, Callable[[Any], str]]
_FACTS: tuple[_Row, ...] = (
    ("backend", "backend", str),
    ("backend_reason", "why this backend", str),
    ("transport", "transport", str),
    ("workers", "workers", words.fact_text),
    ("rows", "rows", words.rows_text),
    ("skipped_rows", "rows left out", words.fact_text),
    ("materialized_bytes", "size of the rows as written", words.bytes_text),
    ("batch_size", "batch size over all workers", lambda rows: words.count_text(rows, "row")),
    ("steps_per_epoch", "steps of an epoch", words.fact_text),
    ("plan", "shard plan", words.plan_text),
    ("seed", "seed", str),
    ("trainable_weights", "trainable weights", words.fact_text),
    ("bytes_sent_per_step", "a worker sends in a step (computed)", words.bytes_text),
    ("target", "stopWhen", str),
    ("seconds_to_target", "time to the target", words.seconds_text),
    ("weights_hash", "hash of the trained weights", str),
    ("mlflow_run_id", "MLflow run", str),
)
_PHASES = ("prepare", "materialize", "start", "train", "collect", "other", "log")


def fact_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of a fit, the network first."""
    network = report.get("network") or {}
    rows = [("network", words.network_text(network))] if network else []
    if network.get("layers"):
        rows.append(("layers", ", ".join(network["layers"])))
    rows += [
        (label, words_of(report[key]))
        for key, label, words_of in _FACTS
        if report.get(key) is not None
    ]
    return rows


def phase_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Seconds by phase, in the order in which phases follow each other."""
    seconds = report.get("seconds", {})
    known = [name for name in _PHASES if name in seconds]
    names = dict.fromkeys([*known, *seconds])
    return [(name, f"{seconds[name]:,.2f} s") for name in names]


def system_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Versions and machine of the driver."""
    units = {"memory_gib": ("memory", "GiB")}
    rows = []
    for key, value in report.get("system", {}).items():
        name, unit = units.get(key, (key, ""))
        rows.append((name, f"{words.fact_text(value)} {unit}".strip()))
    return rows
