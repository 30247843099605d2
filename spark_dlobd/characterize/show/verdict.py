"""What a sweep comes to: the fastest way to train each model, in a sentence. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spark_dlobd.characterize.results.comparison import (
    Measured,
    Series,
    Workload,
    equal,
    link_rate,
    workloads,
)
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.report.words import workers_text

__all__ = ["Contest", "Entry", "contests", "verdict"]

NOTHING = "Nothing has finished that could be compared."


@dataclass(frozen=True)
class Entry:
    """One stack on the number of workers with which it is fastest.

    Attributes
    ----------
    series : Series
        The stack.
    workers : int
        That number.
    rate : Measured
        Images per second.
    """

    series: Series
    workers: int
    rate: Measured

    @property
    def stack(self) -> str:
        """Backend, transport and what else tells it apart."""
        return self.series.stack

    @property
    def local(self) -> bool:
        """Whether it is one process."""
        return self.series.case.backend == "local"

    @property
    def title(self) -> str:
        """Stack and workers, e.g. ``Spark shuffle, 2 workers``."""
        return self.stack if self.local else f"{self.stack}, {workers_text(self.workers)}"

    @property
    def number(self) -> str:
        """Images per second, e.g. ``1,234``."""
        return f"{self.rate.mean:,.0f}"


@dataclass(frozen=True)
class Contest:
    """Stacks that trained the same model on the same data over the same network.

    Attributes
    ----------
    workload : Workload
        What was trained.
    link_mbit : int or None
        Rate of the emulated links.
    entries : tuple of Entry
        At least one, fastest first.
    """

    workload: Workload
    link_mbit: int | None
    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        """Model, data and links."""
        links = f", links of {link_rate(self.link_mbit)}" if self.link_mbit else ""
        return f"{self.workload.title}{links}"

    @property
    def first(self) -> Entry:
        """The fastest."""
        return self.entries[0]

    @property
    def measure(self) -> Entry | None:
        """What the fastest is compared with: one process, else the next."""
        others = self.entries[1:]
        return next((entry for entry in others if entry.local), others[0] if others else None)


def contests(records: Iterable[CaseRecord]) -> list[Contest]:
    """Return who is how fast, by model, data and network.

    Where one process was measured, backends compete with it with two and more workers:
    one worker of a backend is one process with more around it.

    Parameters
    ----------
    records : iterable of CaseRecord
        All results of a sweep.
    """
    found = []
    for workload in workloads(records):
        for link in dict.fromkeys(one.case.link_mbit for one in workload.series):
            series = [one for one in workload.series if one.case.link_mbit == link]
            least = 2 if any(one.case.backend == "local" for one in series) else 1
            entries = [entry for one in series if (entry := _best(one, least)) is not None]
            if entries:
                ranked = sorted(entries, key=lambda entry: -entry.rate.mean)
                found.append(Contest(workload, link, tuple(ranked)))
    return found


def verdict(found: Sequence[Contest]) -> str:
    """Say in one sentence how training is fastest.

    Parameters
    ----------
    found : sequence of Contest
        From `contests`.
    """
    if not found:
        return NOTHING
    if len(found) == 1:
        return _of_one(found[0])
    winners = {contest.first.stack for contest in found}
    if len(winners) == 1:
        return _same_everywhere(found)
    by_winner: dict[str, list[str]] = {}
    for contest in found:
        by_winner.setdefault(_how(contest.first), []).append(contest.title)
    parts = [f"{how} for {' and '.join(titles)}" for how, titles in by_winner.items()]
    return f"Training is fastest {'; '.join(parts)}."


def _of_one(contest: Contest) -> str:
    first, measure = contest.first, contest.measure
    rate = f"{first.number} images/s"
    if measure is None:
        return f"{contest.title} trains {rate} {_how(first)}; nothing else was compared."
    second = contest.entries[1]
    if equal(first.rate, second.rate):
        return f"{contest.title} trains equally fast {_how(first)} and {_how(second)}: {rate}."
    return (
        f"{contest.title} trains fastest {_how(first)}: {rate}, {_ratio(first, measure):.1f} "
        f"times as many as {_how(measure)}."
    )


def _same_everywhere(found: Sequence[Contest]) -> str:
    first = found[0].first
    same = len({contest.first.workers for contest in found}) == 1
    how = _how(first, with_workers=same)
    who = "Both models train" if len(found) == 2 else f"All {len(found)} models train"
    where = ""
    if len({contest.workload.slug for contest in found}) == 1:
        who, where = f"{found[0].workload.title} trains", _over(found)
    elif len({contest.workload.model for contest in found}) < len(found):
        who, where = "Training is", f" in all {len(found)} comparisons"
    ratios = [_ratio(one.first, one.measure) for one in found if one.measure is not None]
    if not ratios:
        return f"{who} {how}{where}; nothing else was compared."
    low, high = (f"{number:.1f}" for number in (min(ratios), max(ratios)))
    times = low if low == high else f"{low} to {high}"
    what = "in one process"
    if first.local:
        what = "with the best backend"
    elif not all(one.measure is None or one.measure.local for one in found):
        what = "what comes next"
    return f"{who} fastest {how}{where}, {times} times as fast as {what}."


def _over(found: Sequence[Contest]) -> str:
    """E.g. `` over links of 100 Mbit/s and 1 Gbit/s``."""
    rates = [link_rate(one.link_mbit) for one in found if one.link_mbit is not None]
    own = "the machine's own network and " if len(rates) < len(found) else ""
    return f" over {own}links of {' and '.join(rates)}"


def _best(one: Series, least: int) -> Entry | None:
    """A stack with the workers that make it fastest; None if it never finished."""
    rates = one.measured(lambda record: record.rows_per_second)
    rates = {count: rate for count, rate in rates.items() if count >= least} or rates
    if not rates:
        return None
    workers = max(rates, key=lambda count: rates[count].mean)
    return Entry(one, workers, rates[workers])


def _ratio(one: Entry, other: Entry) -> float:
    return one.rate.mean / other.rate.mean


def _how(entry: Entry, with_workers: bool = True) -> str:
    """E.g. ``with parameter servers on 2 workers``."""
    if entry.local:
        return "in one process"
    named = entry.stack
    if named.startswith("Parameter"):  # no name of a product
        named = named[0].lower() + named[1:]
    return f"with {named}{f' on {workers_text(entry.workers)}' if with_workers else ''}"
