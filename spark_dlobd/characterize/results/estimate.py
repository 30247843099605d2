"""About how long a case will take: from results of its like, else from a simple guess. Pure.

The guess, where nothing like the case has run yet, is the sum of

- starting and ending Spark and its workers, `START_S`;
- reading, a fixed time a row, and training: the computing and the steps of
  `backends.guess`, on as many cores as there are workers and cores, with the rate of the
  emulated link if there is one;
- testing: a start, and a fixed time a row.

It is meant to tell minutes from hours, and is replaced by measurements as they come. Of
training alone, on a cluster that was probed, `cost.model` predicts more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from statistics import mean

from spark_dlobd.backends.guess import BYTES_PER_S, computing_seconds, step_seconds
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.subjects.datasets import get_dataset
from spark_dlobd.characterize.subjects.models import get_model
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.processes.machine import usable_cores

START_S = 22.0
HOSTS_START_S = 12.0
TEST_START_S = 8.0
READ_S_PER_ROW = 1e-4


class Estimates:
    """Expected seconds of cases.

    Parameters
    ----------
    records : iterable of CaseRecord
        Results so far.
    cores : int, optional
        Cores that the workers share; default is this machine's.

    Examples
    --------
    >>> case = Case("softmax", "mnist", "local", "process", 1, rows=10_000, test_rows=1_000)
    >>> round(Estimates([], cores=2).seconds(case))
    31
    """

    def __init__(self, records: Iterable[CaseRecord], cores: int | None = None) -> None:
        self._cores = cores or usable_cores()
        self._same: dict[tuple[object, ...], list[float]] = {}
        self._alike: dict[tuple[object, ...], list[CaseRecord]] = {}
        for record in records:
            if record.wall_seconds is not None and record.finished:
                self._same.setdefault(record.case.setting, []).append(record.wall_seconds)
                self._alike.setdefault(_stack(record.case), []).append(record)

    def seconds(self, case: Case) -> float:
        """Expected seconds, never more than the case's time limit.

        Repetitions of the case are believed first, then cases of the same model and
        stack that had other rows or epochs, then the guess.
        """
        if same := self._same.get(case.setting):
            return mean(same)
        guess = self._guess(case)
        if alike := self._alike.get(_stack(case)):
            # what the guess got wrong there it gets wrong here too
            known = [record.wall_seconds or 0.0 for record in alike]
            guess *= sum(known) / sum(self._guess(record.case) for record in alike)
        return min(guess, case.time_limit_s)

    def _guess(self, case: Case) -> float:
        rows, test_rows = _rows(case)
        at_once = 1 if case.backend == "local" else min(case.workers, self._cores)
        compute = computing_seconds(get_model(case.model).multiply_adds, 1, at_once)
        read = READ_S_PER_ROW / at_once
        seconds = START_S + (HOSTS_START_S if case.link_mbit else 0.0)
        seconds += case.epochs * (read + compute) * rows
        seconds += case.epochs * math.ceil(rows / case.batch_size) * case_step_seconds(case)
        # the test rows are seen at each epoch's end and once more
        return seconds + TEST_START_S + (case.epochs + 1) * test_rows * (read + compute / 3)


def case_step_seconds(case: Case) -> float:
    """Guessed seconds a step that are not computing."""
    payload = (4 if case.compression == "none" else 2) * get_model(case.model).weights
    rate = BYTES_PER_S if case.link_mbit is None else case.link_mbit * 1e6 / 8
    return step_seconds(case.backend, case.workers, payload, rate)


def _rows(case: Case) -> tuple[int, int]:
    """Rows to train on and to test with; where the folder decides, those of the literature."""
    entry = get_dataset(case.data)
    like = entry if entry.rows is not None else get_dataset(f"generated-{case.data}")
    assert like.rows is not None and like.test_rows is not None
    found = []
    for asked, all_of_them in ((case.rows, like.rows), (case.test_rows, like.test_rows)):
        limited = all_of_them if asked is None else asked
        found.append(limited if entry.generated else min(limited, all_of_them))
    return found[0], found[1]


def _stack(case: Case) -> tuple[object, ...]:
    """What cases have in common whose seconds follow from each other's."""
    return replace(case, rows=None, test_rows=None, epochs=1, data="").setting
