"""What the cost model says of the cases of a sweep, next to what they measured. Pure.

One case of each model and data explains its fit after it: the probes run in its session,
and every other case of the same is predicted from them, whatever its backend and workers.
"""

from __future__ import annotations

from collections.abc import Iterable

from spark_dlobd.characterize.results.checked import Checked, check_predictions
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.sweep.case import Case

__all__ = ["check_sweep", "explaining_cases"]


def explaining_cases(cases: Iterable[Case]) -> set[str]:
    """Ids of the cases that explain: of each model and data the first with most workers.

    Cases on emulated links are not predicted, and none of them explains.

    Examples
    --------
    >>> cases = [Case("softmax", "mnist", "horovod", "gloo", n) for n in (1, 2)]
    >>> explaining_cases(cases) == {cases[1].id}
    True
    """
    chosen: dict[tuple[object, ...], Case] = {}
    for case in cases:
        if case.link_mbit is not None or case.backend == "local":
            continue
        before = chosen.get(_subject(case))
        if before is None or case.workers > before.workers:
            chosen[_subject(case)] = case
    return {case.id for case in chosen.values()}


def check_sweep(records: Iterable[CaseRecord]) -> list[Checked]:
    """Compare every finished case with the explanation of its model and data."""
    records = list(records)
    checked: list[Checked] = []
    for record in records:
        if record.explanation:
            same = [one for one in records if _subject(one.case) == _subject(record.case)]
            checked += check_predictions(record.explanation, same)
    return checked


def _subject(case: Case) -> tuple[object, ...]:
    return case.model, case.data, case.rows
