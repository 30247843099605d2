"""Seconds and shares of the parts of a fit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from spark_dlobd.report.schema import PARTS, Parts, RankSeconds, no_parts

_OF_RANKS = ("input", "compute", "communication", "waiting")


def rank_seconds(ranks: Mapping[int, Mapping[int, Mapping[str, Any]]]) -> list[RankSeconds]:
    """Seconds of each rank over all epochs, from what the training loop told.

    Parameters
    ----------
    ranks : mapping
        Rank to epoch to ``seconds`` and its parts ``input``, ``communication``,
        ``waiting`` and ``tracing``; the rest of the seconds is ``compute``. Where
        communication is None it was not measured, and hence neither was compute.
    """
    return [_seconds_of(rank, list(epochs.values())) for rank, epochs in sorted(ranks.items())]


def _seconds_of(rank: int, epochs: Sequence[Mapping[str, Any]]) -> RankSeconds:
    communication = _sum(epoch["communication"] for epoch in epochs)
    waiting = _sum(epoch["waiting"] for epoch in epochs)
    waited = sum(epoch["input"] for epoch in epochs)
    compute = None
    if communication is not None and waiting is not None:
        known = waited + communication + waiting + sum(epoch["tracing"] for epoch in epochs)
        compute = max(sum(epoch["seconds"] for epoch in epochs) - known, 0.0)
    return RankSeconds(
        rank=rank, input=waited, compute=compute, communication=communication, waiting=waiting
    )


def training_parts(
    ranks: Sequence[RankSeconds], training_seconds: float, spark_seconds: float, tracing: float
) -> Parts:
    """Mean seconds of the training steps by part; nothing is known without ranks.

    Parameters
    ----------
    ranks : sequence of RankSeconds
        From `rank_seconds`, or a backend's own.
    training_seconds : float
        All steps of all epochs.
    spark_seconds : float
        Of these in Spark.
    tracing : float
        Of these in the first call, beyond a usual one; counts as start-up.
    """
    parts = no_parts()
    if not ranks or training_seconds <= 0:
        return parts
    fields = cast(dict[str, "float | None"], parts)
    for name in _OF_RANKS:
        total = _sum(cast(dict[str, Any], rank)[name] for rank in ranks)
        fields[name] = None if total is None else total / len(ranks)
    parts["spark"] = spark_seconds
    parts["start_up"] = tracing
    known = sum(seconds for seconds in fields.values() if seconds is not None)
    if parts["compute"] is not None:
        parts["other"] = max(training_seconds - known, 0.0)
    return parts


def fit_parts(training: Parts, materialize: float, before_training: float, total: float) -> Parts:
    """Seconds of a whole fit by part.

    Parameters
    ----------
    training : Parts
        Seconds of the training steps.
    materialize : float
        Spark's work before the training.
    before_training : float
        From the call of ``fit`` to the first step, `materialize` included.
    total : float
        From the call of ``fit`` to the trained model.
    """
    parts = Parts(**training)
    spark = materialize + (training["spark"] or 0.0)
    start_up = max(before_training - materialize, 0.0) + (training["start_up"] or 0.0)
    parts["spark"], parts["start_up"] = spark, start_up
    measured = [parts["input"], parts["compute"], parts["communication"], parts["waiting"]]
    if None not in measured:
        known = sum(cast(Iterable[float], measured)) + spark + start_up
        parts["other"] = max(total - known, 0.0)
    return parts


def shares(parts: Parts, total: float) -> Parts:
    """Divide seconds by `total`, or by their sum if that is more; shares have four digits.

    Ranks have clocks of their own: the mean of their parts may be more than what the
    first rank's epochs took.
    """
    found = no_parts()
    if total > 0:
        total = max(total, sum(cast(dict[str, Any], parts)[name] or 0.0 for name in PARTS))
    for name in PARTS if total > 0 else ():
        seconds = cast(dict[str, Any], parts)[name]
        cast(dict[str, Any], found)[name] = None if seconds is None else round(seconds / total, 4)
    return found


def _sum(values: Iterable[float | None]) -> float | None:
    """Sum; None if anything is."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total
