"""Puts the report of a fit together. Runs on the driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from spark_dlobd.job.target import Target
from spark_dlobd.report.limits import Facts, limit_of
from spark_dlobd.report.observed import Observed
from spark_dlobd.report.schema import SCHEMA_VERSION, FitReport, RankSeconds, Utilization
from spark_dlobd.report.shares import fit_parts, rank_seconds, shares, training_parts
from spark_dlobd.report.timeline import accuracy_reached, metrics_over_time, seconds_to_target
from spark_dlobd.training.series import POINTS, Series

_ALL_POINTS = 12_000
_DIGITS = {"seconds": 2, "cpu_percent": 1, "gpu_percent": 1}


@dataclass(frozen=True)
class Settings:
    """What is known of a fit before it begins.

    Attributes
    ----------
    backend, backend_reason : str
        What trains, and why it was chosen.
    workers, batch_size, seed : int
        Of the fit.
    system : dict
        Versions and machine.
    network : dict
        As `network_facts` tells it.
    """

    backend: str
    backend_reason: str
    workers: int
    batch_size: int
    seed: int
    system: dict[str, Any]
    network: dict[str, Any] = field(default_factory=dict)


def build_report(
    settings: Settings,
    told: Mapping[str, Any],
    observed: Observed,
    seconds: dict[str, float],
    warnings: list[str],
    target: Target | None = None,
) -> FitReport:
    """Derive everything from what was told and observed.

    Parameters
    ----------
    settings : Settings
        Of the fit.
    told : mapping
        The backend's own report and facts about the rows; empty if the fit failed early.
    observed : Observed
        What the driver saw, until now.
    seconds : dict of str to float
        By phase, ``log`` not yet among them.
    warnings : list of str
        What the driver warned of.
    target : Target, optional
        The Param ``stopWhen``.
    """
    total = observed.now
    seconds = dict(seconds)
    _divide_gang_phase(seconds, observed.moments, total)
    seconds["other"] = max(total - sum(seconds.values()), 0.0)
    epoch_seconds = [float(value) for value in told.get("epoch_seconds") or _epochs_of(observed)]
    ranks: list[RankSeconds] = told.get("ranks") or rank_seconds(observed.ranks)
    training_seconds = sum(epoch_seconds)
    tracing = _tracing(observed)
    spark_seconds = told.get("spark_seconds", 0.0)
    training = training_parts(ranks, training_seconds, spark_seconds, tracing)
    before = observed.moments.get(
        "train", sum(seconds.get(phase, 0.0) for phase in ("prepare", "materialize", "start"))
    )
    training_shares = shares(training, training_seconds)
    whole = fit_parts(training, seconds.get("materialize", 0.0), before, total)
    over_time = metrics_over_time(observed.epochs)
    facts = Facts(
        backend=settings.backend,
        workers=settings.workers,
        total_seconds=total,
        seconds=seconds,
        before_training=before,
        training_seconds=training_seconds,
        shares=training_shares,
        tracing=tracing,
        bytes_sent_per_step=told.get("bytes_sent_per_step"),
        ranks=tuple(ranks),
    )
    measured = {
        "schema": SCHEMA_VERSION,
        **asdict(settings),
        "started_at": observed.started_at,
        "target": None if target is None else str(target),
        "seconds_to_target": seconds_to_target(over_time, target),
        "seconds": seconds,
        "total_seconds": round(total, 3),
        "metrics_over_time": over_time,
        "accuracy": accuracy_reached(over_time),
        "epoch_seconds": epoch_seconds,
        "rows_per_second": _rates(told, epoch_seconds),
        "training_shares": training_shares,
        "shares": shares(whole, total),
        "ranks": ranks,
        "utilization": _utilization(observed.utilization),
        "limit": limit_of(facts),
        "warnings": [*warnings, *observed.problems],
    }
    return cast(FitReport, {**told, **measured})


def _divide_gang_phase(seconds: dict[str, float], moments: Mapping[str, float], end: float) -> None:
    """A gang's phase ``train`` begins with starting it: divide it as the other backends do."""
    if "start" in seconds or "train" not in seconds or "train" not in moments:
        return
    before = sum(seconds.get(phase, 0.0) for phase in ("prepare", "materialize"))
    start = min(max(moments["train"] - before, 0.0), seconds["train"])
    collect = max(end - moments["collect"], 0.0) if "collect" in moments else 0.0
    collect = min(collect, seconds["train"] - start)
    seconds |= {"start": start, "train": seconds["train"] - start - collect, "collect": collect}


def _epochs_of(observed: Observed) -> list[float]:
    """Seconds of the epochs of a fit that failed, as its first rank told them."""
    first = next(iter(observed.ranks.values()), {})
    return [first[epoch]["seconds"] for epoch in sorted(first)]


def _tracing(observed: Observed) -> float:
    first = [epochs.get(0, {}).get("tracing", 0.0) for epochs in observed.ranks.values()]
    return sum(first) / len(first) if first else 0.0


def _rates(told: Mapping[str, Any], epoch_seconds: list[float]) -> list[float]:
    rows = told.get("epoch_rows")
    if rows is None:
        rows = [told.get("rows_per_epoch")] * len(epoch_seconds)
    pairs = zip(rows, epoch_seconds, strict=False)
    return [round(count / each, 1) for count, each in pairs if count is not None and each > 0]


def _utilization(sampled: Mapping[int, Series]) -> list[Utilization]:
    """Points by rank, fewer of each where there are many ranks."""
    most = max(2, min(POINTS, _ALL_POINTS // max(len(sampled), 1)) // 2 * 2)
    found = []
    for rank, series in sorted(sampled.items()):
        small = Series(["seconds", *series.fields[1:]], most)
        for point in series.points:
            small.add(point)
        columns = {
            field: [round(value, _DIGITS.get(field, 0)) for value in small.column(field)]
            for field in small.fields
        }
        found.append(cast(Utilization, {"rank": rank, **columns}))
    return found
