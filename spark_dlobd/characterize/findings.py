"""What the results show, in sentences made from their numbers, next to the literature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from spark_dlobd.characterize.comparison import (
    Measured,
    Number,
    Runs,
    Series,
    Workload,
    efficiencies,
    seconds_per_epoch,
    workloads,
)
from spark_dlobd.characterize.figures import TARGET_ACCURACY
from spark_dlobd.characterize.models import get_model
from spark_dlobd.characterize.record import CaseRecord

__all__ = ["Finding", "find"]

PAYS = 0.05
"""Share of an epoch's time that more workers must save to be worth having."""

EQUAL = 0.02
"""Means closer than this share of the larger one are called equal, repeated or not."""

IN_BAND, PARAMETER_SERVERS, ALLREDUCE = "shuffle", "parameter_server", "horovod"


@dataclass(frozen=True)
class Finding:
    """One thing that the results show.

    Attributes
    ----------
    topic : str
        What it is about.
    subject : str
        Model and data, or ``"all"``.
    ours : tuple of str
        What these results show, in sentences.
    literature : str
        What "Characterizing Deep Learning over Big Data Stacks on RDMA-capable Networks"
        and the talk on distributed TensorFlow on Spark found, on their clusters.
    numbers : dict of str to float
        What the sentences were made from.
    """

    topic: str
    subject: str
    ours: tuple[str, ...]
    literature: str
    numbers: Mapping[str, float] = field(default_factory=dict)


LITERATURE = {
    "workers": (
        "With IPoIB, CIFAR-10 Quick gained 78 % from 16 nodes over one with OpenBLAS, 41.5 % with "
        "MKL, 15.9 % with GPUs, and became slower with GPUs and cuDNN: the faster one node is, the "
        "sooner more of them stop paying."
    ),
    "efficiency": (
        "On CIFAR-10 three workers gave 1.58 times one GPU with plain distributed TensorFlow "
        "(efficiency 53 %), 1.73 times on Spark (58 %) and 2.25 times inside one server (75 %)."
    ),
    "in-band": (
        "RDMA instead of IPoIB made BigDL, in band, up to 2.7 times faster (VGG, 384 cores); "
        "CaffeOnSpark, out of band, took 22 % (AlexNet) and 15 % (GoogLeNet) less time."
    ),
    "servers": (
        "One parameter server and three workers trained 2,250 images a second on CIFAR-10, "
        "TensorFlow on Spark 2,450, three GPUs of one server 3,200."
    ),
    "transport": (
        "RDMA was up to 2.7 times faster than IPoIB. A message takes gRPC 100 to 200 us, MPI and "
        "verbs 1 to 3 us."
    ),
    "target": "BigDL's VGG reached 70 % after 2,132 s with RDMA and 4,337 s with IPoIB.",
    "size": (
        "Users should mind the size of the model, the number of updates and the speed of the "
        "network, and saturate one machine before they distribute."
    ),
    "link": "BigDL's epoch 18 ended after 870 s with RDMA and after 2,372 s with IPoIB: 2.7 times.",
    "failures": (
        "TensorFlowOnSpark crashed above 8 GPUs and hung above 4 nodes of the MNIST example."
    ),
}


def find(records: Iterable[CaseRecord], target: float = TARGET_ACCURACY) -> list[Finding]:
    """Return what the results show. Pure.

    Statements compare means over repetitions; two means that are closer than their
    standard deviations together, or than `EQUAL`, are called equal. What the results do
    not cover is not mentioned.

    Parameters
    ----------
    records : iterable of CaseRecord
        All results of a sweep.
    target : float, default 0.7
        Accuracy whose time is compared.
    """
    records = list(records)
    groups = workloads(records)
    finders: tuple[Callable[[Workload], Iterator[Finding]], ...] = (
        _more_workers,
        _efficiency,
        _in_band,
        _servers,
        _transports,
        lambda workload: _target(workload, target),
        _links,
    )
    found = [finding for finder in finders for workload in groups for finding in finder(workload)]
    return [*found, *_model_size(groups), *_failures(groups, records)]


def _more_workers(workload: Workload) -> Iterator[Finding]:
    numbers: dict[str, float] = {}
    paying: dict[int, list[str]] = {}
    sentences = []
    for one in workload.distributed:
        seconds = one.measured(seconds_per_epoch)
        if len(seconds) > 1:
            last = last_that_pays(seconds)
            numbers[one.label] = float(last)
            if last == max(seconds):
                paying.setdefault(last, []).append(one.label)
            else:
                sentences.append(_does_not_pay(one.label, seconds, last))
    for last, labels in sorted(paying.items(), reverse=True):
        sentences.insert(0, f"Every step up to {last} workers pays with {_listed(labels)}.")
    if sentences:
        yield Finding(
            "More workers", workload.title, tuple(sentences), LITERATURE["workers"], numbers
        )


def last_that_pays(seconds: Mapping[int, Measured]) -> int:
    """Number of workers up to which every step up saved at least `PAYS` of the time.

    Examples
    --------
    >>> one, two, four = (Measured(s, 0.0, 1) for s in (10.0, 6.0, 5.9))
    >>> last_that_pays({1: one, 2: two, 4: four})
    2
    """
    counts = sorted(seconds)
    best = counts[0]
    for workers in counts[1:]:
        before, after = seconds[best], seconds[workers]
        if equal(before, after) or after.mean > (1 - PAYS) * before.mean:
            break
        best = workers
    return best


def equal(one: Measured, other: Measured) -> bool:
    """Whether two means are within `EQUAL` or their standard deviations together."""
    difference = abs(one.mean - other.mean)
    return difference < max(one.std + other.std, EQUAL * max(one.mean, other.mean))


def _does_not_pay(label: str, seconds: Mapping[int, Measured], last: int) -> str:
    following = min(workers for workers in seconds if workers > last)
    before, after = seconds[last], seconds[following]
    change = after.mean / before.mean - 1
    how = "as long" if equal(before, after) else f"{_percent(abs(change))} {_longer(change)}"
    return (
        f"With {label} more than {_workers(last)} do not pay: with {following} an epoch takes "
        f"{how} ({_s(after)} after {_s(before)})."
    )


def _efficiency(workload: Workload) -> Iterator[Finding]:
    sentences, numbers = [], {}
    for one in workload.distributed:
        values = efficiencies(one)
        if len(values) > 1:
            most, fewest = max(values), min(values)
            numbers[one.label] = values[most]
            sentences.append(
                f"{one.label}: {most} workers are {values[most] * most / fewest:.2f} times as "
                f"fast as {fewest}, efficiency {_percent(values[most])}."
            )
    if sentences:
        yield Finding(
            "Efficiency", workload.title, tuple(sentences), LITERATURE["efficiency"], numbers
        )


def _in_band(workload: Workload) -> Iterator[Finding]:
    yield from _against(
        workload, "In band against out of band", IN_BAND, ALLREDUCE,
        "through Spark's shuffle", LITERATURE["in-band"],
    )  # fmt: skip


def _servers(workload: Workload) -> Iterator[Finding]:
    yield from _against(
        workload, "Parameter servers against allreduce", PARAMETER_SERVERS, ALLREDUCE,
        "with parameter servers", LITERATURE["servers"],
    )  # fmt: skip


def _against(
    workload: Workload, topic: str, backend: str, other: str, subject: str, literature: str
) -> Iterator[Finding]:
    """The fastest series of one backend against the fastest of another, by workers."""
    mine, theirs = (_fastest_by_workers(workload, name) for name in (backend, other))
    sentences, numbers = [], {}
    for workers in sorted(set(mine) & set(theirs) - {1}):
        (_, ours), (their_label, reference) = mine[workers], theirs[workers]
        numbers[f"{workers} workers"] = ours.mean / reference.mean
        sentences.append(
            f"{workers} workers: an epoch {subject} takes{_times(ours, reference)} as long as "
            f"with {their_label}, {_s(ours)} against {_s(reference)}."
        )
    if sentences:
        yield Finding(topic, workload.title, tuple(sentences), literature, numbers)


def _fastest_by_workers(workload: Workload, backend: str) -> dict[int, tuple[str, Measured]]:
    fastest: dict[int, tuple[str, Measured]] = {}
    for one in workload.series:
        if one.case.backend == backend and one.case.link_mbit is None:
            for workers, mean in one.measured(seconds_per_epoch).items():
                if workers not in fastest or mean.mean < fastest[workers][1].mean:
                    fastest[workers] = (one.label, mean)
    return fastest


def _transports(workload: Workload) -> Iterator[Finding]:
    workers = workload.most_workers
    ranked = _ranked(workload.distributed, workers, seconds_per_epoch)
    if workers < 2 or len(ranked) < 2:
        return
    (first, best), (second, next_best), (last, slowest) = ranked[0], ranked[1], ranked[-1]
    if equal(best, next_best):
        lead = f"{first} and {second} are equally fast on {workers} workers: {_s(best)} an epoch."
    else:
        lead = f"{first} is the fastest on {workers} workers: {_s(best)} an epoch."
    trail = f"{last} is the slowest: {_s(slowest)}, {slowest.mean / best.mean:.2f} times as long."
    yield Finding(
        "Fastest way for gradients",
        workload.title,
        (lead,) if equal(best, slowest) else (lead, trail),
        LITERATURE["transport"],
        {label: mean.mean for label, mean in ranked},
    )


def _target(workload: Workload, target: float) -> Iterator[Finding]:
    workers = workload.most_workers
    ranked = _ranked(workload.series, workers, lambda record: record.seconds_to(target))
    tried = [one.label for one in workload.series if _has_accuracy(one, workers)]
    if not tried:
        return
    reached = [f"{label} after {_s(mean)}" for label, mean in ranked]
    never = [label for label in tried if label not in dict(ranked)]
    sentences = []
    if reached:
        sentences.append(
            f"On {_workers(workers)} {_percent(target)} is reached by {_listed(reached)}."
        )
    if never:
        sentences.append(f"{_listed(never)} did not reach it.")
    yield Finding(
        f"Time to {_percent(target)} accuracy", workload.title, tuple(sentences),
        LITERATURE["target"], {label: mean.mean for label, mean in ranked},
    )  # fmt: skip


def _has_accuracy(one: Series, workers: int) -> bool:
    return workers in one.runs and any(r.accuracy_over_time for r in one.runs[workers].finished)


def _links(workload: Workload) -> Iterator[Finding]:
    """How much a slower link costs each stack, on the most workers."""
    by_stack: dict[str, dict[int, Measured]] = {}
    for one in workload.distributed:
        mean = one.measured(seconds_per_epoch).get(workload.most_workers)
        if one.case.link_mbit and mean is not None:
            by_stack.setdefault(one.stack, {})[one.case.link_mbit] = mean
    sentences, numbers = [], {}
    for stack, rates in by_stack.items():
        slow, fast = min(rates), max(rates)
        if slow != fast:
            numbers[stack] = rates[slow].mean / rates[fast].mean
            sentences.append(
                f"{stack}: an epoch takes{_times(rates[slow], rates[fast])} as long over links of "
                f"{slow} Mbit/s as over {fast} Mbit/s."
            )
    if sentences:
        yield Finding(
            "Speed of the network", workload.title, tuple(sentences), LITERATURE["link"], numbers
        )


def _model_size(groups: list[Workload]) -> Iterator[Finding]:
    """Efficiency of the model with the fewest weights against that with the most."""
    by_weights = sorted(groups, key=lambda workload: get_model(workload.model).weights)
    if len({workload.model for workload in groups}) < 2:
        return
    small, large = by_weights[0], by_weights[-1]
    values = [_efficiency_by_label(workload) for workload in (small, large)]
    parts, numbers = [], {}
    for label in values[0]:
        common = set(values[0][label]) & set(values[1].get(label, {}))
        if common and max(common) > 1:
            workers = max(common)
            pair = [value[label][workers] for value in values]
            numbers[label] = pair[1] - pair[0]
            parts.append(
                f"{label} on {workers} workers: {_percent(pair[0])} and {_percent(pair[1])}."
            )
    if parts:
        names = [
            f"{get_model(w.model).title} ({get_model(w.model).weights:,} weights)"
            for w in (small, large)
        ]
        ours = (f"Efficiency with {names[0]} and with {names[1]}:", *parts)
        yield Finding("Size of the model", "all", ours, LITERATURE["size"], numbers)


def _efficiency_by_label(workload: Workload) -> dict[str, dict[int, float]]:
    return {one.label: efficiencies(one) for one in workload.distributed}


def _failures(groups: list[Workload], records: list[CaseRecord]) -> Iterator[Finding]:
    if not records:
        return
    counts = {
        status: sum(record.status == status for record in records)
        for status in ("failed", "timed out")
    }
    bad = [f"{count} {status}" for status, count in counts.items() if count]
    sentences = [f"All {len(records)} runs finished."]
    if bad:
        sentences = [f"Of {len(records)} runs {' and '.join(bad)}."]
        sentences += [
            f"{workload.title}, {one.label} on {_workers(workers)}: {_listed(_statuses(runs))}."
            for workload in groups
            for one in workload.series
            for workers, runs in one.runs.items()
            if len(runs.finished) < len(runs.records)
        ]
    numbers = {status: float(count) for status, count in counts.items()}
    yield Finding("Failures", "all", tuple(sentences), LITERATURE["failures"], numbers)


def _statuses(runs: Runs) -> list[str]:
    found = [record.status for record in runs.records]
    return [
        f"{found.count(status)} of {len(found)} {status}"
        for status in dict.fromkeys(found)
        if status != "finished"
    ]


def _ranked(series: Iterable[Series], workers: int, number: Number) -> list[tuple[str, Measured]]:
    means = [(one.label, one.measured(number).get(workers)) for one in series]
    known = [(label, mean) for label, mean in means if mean is not None]
    return sorted(known, key=lambda pair: pair[1].mean)


def _times(ours: Measured, reference: Measured) -> str:
    return "" if equal(ours, reference) else f" {ours.mean / reference.mean:.2f} times"


def _longer(change: float) -> str:
    return "longer" if change > 0 else "less"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _s(mean: Measured) -> str:
    return f"{mean.mean:.3g} s"
