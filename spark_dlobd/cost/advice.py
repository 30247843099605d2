"""Which backend and how many workers, and why in words. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from spark_dlobd.cost.model import Prediction
from spark_dlobd.report.words import workers_text

_WORTH = 0.9
"""A further worker has to save a tenth of the time."""


def recommend(predictions: Sequence[Prediction], refused: Collection[str] = ()) -> Prediction:
    """Return the fastest fit that trains as the estimator says, with few workers.

    What only a person can choose is left out: other algorithms (parameter servers, which
    train asynchronously, and averages of weights, ``sync_every`` of the shuffle), and ports
    through which a stranger runs code (parameter servers and TensorFlow's ring).

    Parameters
    ----------
    predictions : sequence of Prediction
        Of one model and data; at least one that can be recommended.
    refused : collection of str
        Backends to leave out as well.
    """
    able = [one for one in predictions if _against(one) is None and one.fits]
    able = [one for one in able if one.backend not in refused]
    best = min(able, key=lambda one: one.fit_s)
    for one in sorted(able, key=lambda one: (one.workers, one.fit_s)):
        if one.workers < best.workers and _WORTH * one.fit_s <= best.fit_s:
            return one
    return best


def _against(one: Prediction) -> str | None:
    """Why only a person can choose it."""
    if one.label == "collective, ring":
        return "whoever reaches its ports can run code"
    if one.backend == "parameter_server" or (one.backend == "shuffle" and one.label != "shuffle"):
        return "it trains in another way"
    return None


def explain_choice(
    best: Prediction,
    predictions: Sequence[Prediction],
    refused: Mapping[str, str],
    asked: tuple[str, int],
) -> str:
    """Say in one paragraph why `best`.

    Parameters
    ----------
    best : Prediction
        From `recommend`.
    predictions : sequence of Prediction
        All of them.
    refused : mapping of str to str
        Backends that cannot train this, and why.
    asked : tuple of str and int
        Backend and number of workers of the estimator.
    """
    said = [
        f"Recommended: {best.label} with {workers_text(best.workers)}, {best.fit_s:.1f} s for "
        f"the fit ({best.start_s:.1f} s of them before the first step), {best.epoch_s:.2f} s an "
        "epoch."
    ]
    said += _compared(best, predictions, refused)
    share = best.synchronization_s / (best.compute_s + best.synchronization_s)
    if best.limit == "compute":
        said.append(f"Computing limits it: {1 - share:.0%} of a step.")
    else:
        said.append(
            f"Synchronization limits it: {share:.0%} of a step. Larger batches need fewer of them."
        )
    said += _of_asked(best, predictions, asked)
    said += [f"{name} is out: {reason}" for name, reason in refused.items()]
    return " ".join(said)


def _compared(
    best: Prediction, predictions: Sequence[Prediction], refused: Collection[str]
) -> list[str]:
    said = []
    able = [o for o in predictions if o.fits and o.backend not in refused]
    more = [o for o in able if o.workers > best.workers and _against(o) is None]
    if more:
        fastest = min(more, key=lambda one: one.fit_s)
        said.append(
            f"More workers do not pay: {fastest.label} with {fastest.workers} would take "
            f"{fastest.fit_s:.1f} s."
        )
    others = [o for o in able if o.workers == best.workers and o.backend != best.backend]
    others = [o for o in others if _against(o) is None]
    if others:
        said.append(
            "With as many workers "
            + ", ".join(f"{one.label} would take {one.fit_s:.1f} s" for one in others)
            + "."
        )
    faster = [o for o in able if _against(o) is not None and o.fit_s < _WORTH * best.fit_s]
    if faster:
        one = min(faster, key=lambda one: one.fit_s)
        said.append(
            f"{one.label} with {one.workers} would take {one.fit_s:.1f} s, but {_against(one)}, "
            "so it is not recommended by itself."
        )
    return said


def _of_asked(
    best: Prediction, predictions: Sequence[Prediction], asked: tuple[str, int]
) -> list[str]:
    """How the estimator's own settings compare."""
    backend, workers = asked
    own = [o for o in predictions if o.workers == workers and backend in (o.backend, o.label)]
    if not own or own[0] == best:
        return []
    return [f"What the estimator asks for, {own[0].label} with {workers}: {own[0].fit_s:.1f} s."]
