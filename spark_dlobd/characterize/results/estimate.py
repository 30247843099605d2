"""About how long a case will take: from results of its like, else from a simple guess. Pure.

The guess, where nothing like the case has run yet, is the sum of

- starting and ending Spark and its workers, `START_S`;
- reading and training: a fixed time a row, and three times the multiply-adds of a
  forward pass at `FLOPS_PER_CORE` on as many cores as there are workers and cores;
- for each step the time of the transport, `STEP_S`, and its gradients at
  `BYTES_PER_S` or the rate of the emulated link;
- testing: a start, and a fixed time a row.

It is meant to tell minutes from hours, and is replaced by measurements as they come.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from statistics import mean

from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.subjects.datasets import get_dataset
from spark_dlobd.characterize.subjects.models import get_model
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.processes.machine import usable_cores

START_S = 22.0
HOSTS_START_S = 12.0
TEST_START_S = 8.0
READ_S_PER_ROW = 1e-4
FLOPS_PER_CORE = 2e10
BYTES_PER_S = 5e8
STEP_S = {
    "local": 0.0,
    "horovod": 0.003,
    "collective": 0.004,
    "parameter_server": 0.01,
    "shuffle": 0.09,
}
"""Seconds a step that the backend takes for other things than computing and sending."""

MULTIPLY_ADDS = {
    "softmax": 7_840,
    "lenet": 2_293_000,
    "cifar10_quick": 12_298_240,
    "vgg16": 313_725_952,
    "alexnet": 1_131_201_056,
    "googlenet": 1_581_658_112,
}
"""Of the forward pass of one image, convolutions and dense layers alone."""


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
        compute = 6 * MULTIPLY_ADDS[case.model] / FLOPS_PER_CORE
        at_once = 1 if case.backend == "local" else min(case.workers, self._cores)
        seconds = START_S + (HOSTS_START_S if case.link_mbit else 0.0)
        seconds += case.epochs * (READ_S_PER_ROW + compute) * rows / at_once
        seconds += case.epochs * math.ceil(rows / case.batch_size) * step_seconds(case)
        # the test rows are seen at each epoch's end and once more
        seconds += TEST_START_S
        return seconds + (case.epochs + 1) * test_rows * (READ_S_PER_ROW + compute / 3) / at_once


def step_seconds(case: Case) -> float:
    """Guessed seconds a step that are not computing.

    Each worker's link carries the weights about twice: gradients go, weights or sums
    come back. Of parameter servers one link carries that of all workers.
    """
    if case.backend == "local" or (case.workers == 1 and case.backend != "shuffle"):
        return STEP_S[case.backend]
    width = 4 if case.compression == "none" else 2
    carried = 2 * width * get_model(case.model).weights
    carried *= case.workers if case.backend == "parameter_server" else 1
    rate = BYTES_PER_S if case.link_mbit is None else case.link_mbit * 1e6 / 8
    return STEP_S[case.backend] + carried / rate


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
