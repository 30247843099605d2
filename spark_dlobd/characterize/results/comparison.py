"""Results put side by side: what was trained, by which stack, on how many workers. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.subjects.datasets import get_dataset
from spark_dlobd.characterize.subjects.models import get_model
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.characterize.sweep.transports import get_transport, transports_of

BACKEND_TITLES = {
    "local": "One process",
    "horovod": "Horovod",
    "collective": "Collectives",
    "parameter_server": "Parameter servers",
    "shuffle": "Spark shuffle",
}
Number = Callable[[CaseRecord], "float | None"]

EQUAL = 0.02
"""Means closer than this share of the larger one are called equal, repeated or not."""


@dataclass(frozen=True)
class Measured:
    """Mean of repetitions.

    Attributes
    ----------
    mean : float
        Of the runs.
    std : float
        Sample standard deviation; 0 of a single run.
    runs : int
        How many.
    """

    mean: float
    std: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured:
        """Mean and deviation of at least one value.

        Examples
        --------
        >>> Measured.of([1.0, 3.0])
        Measured(mean=2.0, std=1.4142135623730951, runs=2)
        """
        mean = sum(values) / len(values)
        squares = sum((value - mean) ** 2 for value in values)
        std = math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else 0.0
        return cls(mean, std, len(values))


@dataclass(frozen=True)
class Runs:
    """Repetitions of one case."""

    records: tuple[CaseRecord, ...]

    @property
    def case(self) -> Case:
        """The first repetition's case."""
        return self.records[0].case

    @property
    def finished(self) -> tuple[CaseRecord, ...]:
        """Those that have something to measure."""
        return tuple(record for record in self.records if record.finished)

    def measure(self, number: Number) -> Measured | None:
        """Mean of `number` over the repetitions that have it."""
        values = [value for record in self.finished if (value := number(record)) is not None]
        return Measured.of(values) if values else None


@dataclass(frozen=True)
class Series:
    """One stack: backend, transport and what else tells it apart.

    Attributes
    ----------
    label : str
        For legends.
    stack : str
        The label without the rate of an emulated link.
    runs : dict of int to Runs
        By number of workers, ascending.
    variant : int
        Number among the series of one backend and transport, for line styles.
    """

    label: str
    stack: str
    runs: dict[int, Runs]
    variant: int = 0

    @property
    def case(self) -> Case:
        """Of any of its runs."""
        return next(iter(self.runs.values())).case

    def measured(self, number: Number) -> dict[int, Measured]:
        """Number of workers to the mean of `number`, where there is one."""
        means = {workers: runs.measure(number) for workers, runs in self.runs.items()}
        return {workers: mean for workers, mean in means.items() if mean is not None}


@dataclass(frozen=True)
class Workload:
    """What was trained, and every stack that trained it.

    Attributes
    ----------
    title, slug : str
        For people and for file names.
    generated : bool
        Whether its data were drawn by a program.
    series : tuple of Series
        In the order in which they first ran.
    """

    title: str
    slug: str
    generated: bool
    series: tuple[Series, ...]

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.series[0].case.model

    @property
    def most_workers(self) -> int:
        """Largest number of workers on which anything finished; 0 if nothing did."""
        return max(
            (w for one in self.series for w, runs in one.runs.items() if runs.finished), default=0
        )

    @property
    def repeated(self) -> bool:
        """Whether anything was measured more than once."""
        return any(len(runs.finished) > 1 for one in self.series for runs in one.runs.values())

    @property
    def distributed(self) -> tuple[Series, ...]:
        """Without those whose workers share one process."""
        return tuple(one for one in self.series if one.case.backend != "local")


def workloads(records: Iterable[CaseRecord]) -> list[Workload]:
    """Group results by what was trained. Pure.

    Batch sizes become series of their own only where several were run with the same
    number of workers.
    """
    grouped: dict[tuple[object, ...], list[CaseRecord]] = {}
    for record in records:
        case = record.case
        key = (case.model, case.data, case.epochs, case.rows, case.test_rows)
        grouped.setdefault(key, []).append(record)
    sizes = [key[:2] for key in grouped]
    return [_workload(found, sizes.count(key[:2]) > 1) for key, found in grouped.items()]


def _workload(records: list[CaseRecord], ambiguous: bool) -> Workload:
    case = records[0].case
    data = get_dataset(case.data)
    title = f"{get_model(case.model).title} on {data.title}"
    slug = f"{case.model}-{case.data}"
    if ambiguous:
        rows = "all" if case.rows is None else f"{case.rows:,}"
        title += f" ({rows} rows, {case.epochs} epochs)"
        slug += f"-{case.rows or 'all'}-{case.epochs}"
    return Workload(title, slug, data.generated, _series(records))


def _series(records: list[CaseRecord]) -> tuple[Series, ...]:
    batches: dict[int, set[int]] = {}
    for record in records:
        batches.setdefault(record.case.workers, set()).add(record.case.batch_size)
    by_batch = any(len(sizes) > 1 for sizes in batches.values())
    grouped: dict[tuple[object, ...], dict[int, list[CaseRecord]]] = {}
    for record in records:
        case = record.case
        key = (
            case.transport,
            case.compression,
            case.link_mbit,
            case.batch_size if by_batch else None,
        )
        grouped.setdefault(key, {}).setdefault(case.workers, []).append(record)
    made: list[Series] = []
    for by_workers in grouped.values():
        runs = {workers: Runs(tuple(found)) for workers, found in sorted(by_workers.items())}
        case = next(iter(runs.values())).case
        variant = sum(one.case.transport == case.transport for one in made)
        shown = (case, len(transports_of(case.backend)) > 1, by_batch)
        made.append(Series(_label(*shown), _label(*shown, with_link=False), runs, variant))
    return tuple(made)


def _label(case: Case, with_transport: bool, with_batch: bool, with_link: bool = True) -> str:
    """E.g. ``Horovod (MPI over TCP, bf16)``."""
    parts = [get_transport(case.transport).title] if with_transport else []
    parts += [case.compression] if case.compression != "none" else []
    parts += [link_rate(case.link_mbit)] if case.link_mbit and with_link else []
    parts += [f"batch {case.batch_size}"] if with_batch else []
    backend = BACKEND_TITLES.get(case.backend, case.backend)
    return f"{backend} ({', '.join(parts)})" if parts else backend


def link_rate(mbit: int) -> str:
    """Rate of a link, e.g. ``1 Gbit/s``."""
    return f"{mbit / 1000:g} Gbit/s" if mbit >= 1000 else f"{mbit} Mbit/s"


def equal(one: Measured, other: Measured) -> bool:
    """Whether two means are within `EQUAL` or their standard deviations together."""
    difference = abs(one.mean - other.mean)
    return difference < max(one.std + other.std, EQUAL * max(one.mean, other.mean))


def speedups(series: Series) -> dict[int, float]:
    """Images per second against the fewest workers: number of workers to ratio."""
    rates = {w: m.mean for w, m in series.measured(lambda r: r.rows_per_second).items()}
    if not rates:
        return {}
    fewest = min(rates)
    return {workers: rate / rates[fewest] for workers, rate in rates.items()}


def efficiencies(series: Series) -> dict[int, float]:
    """Speedup divided by the factor of workers; 1 is perfect.

    Examples
    --------
    Twice the workers and 1.5 times the images per second are an efficiency of 0.75.
    """
    ratios = speedups(series)
    return {workers: ratio / (workers / min(ratios)) for workers, ratio in ratios.items()}
