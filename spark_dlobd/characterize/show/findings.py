"""What the results show, in sentences made from their numbers, next to the literature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from spark_dlobd.characterize.results.comparison import (
    Measured,
    Number,
    Runs,
    Series,
    Workload,
    efficiencies,
    equal,
    link_rate,
    workloads,
)
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.show.figures import TARGET_ACCURACY
from spark_dlobd.characterize.subjects.models import get_model
from spark_dlobd.report.words import workers_text

__all__ = ["Finding", "find"]

PAYS = 0.05
"""Share of an epoch's time that more workers must save to be worth having."""

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
    paying: dict[int, list[str]] = {}
    most, fewest = 0, 0
    for one in workload.distributed:
        seconds = one.measured(lambda record: record.seconds_per_epoch)
        if len(seconds) > 1:
            paying.setdefault(last_that_pays(seconds), []).append(one.label)
            most, fewest = max(most, *seconds), min(seconds)
    if not paying:
        return
    labels = {last: _listed(found) for last, found in sorted(paying.items(), reverse=True)}
    if list(paying) == [fewest]:
        sentence = f"More than {workers_text(fewest)} pay with no stack."
    elif list(paying) == [most]:
        every = "every stack" if len(paying[most]) > 1 else labels[most]
        sentence = f"{workers_text(most)} pay with {every}."
    else:
        sentence = (
            f"Workers that pay: {', '.join(f'{w} with {named}' for w, named in labels.items())}."
        )
    numbers = {label: float(last) for last, found in paying.items() for label in found}
    yield Finding("More workers", workload.title, (sentence,), LITERATURE["workers"], numbers)


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


def _efficiency(workload: Workload) -> Iterator[Finding]:
    by_counts: dict[tuple[int, int], dict[str, float]] = {}
    for one in workload.distributed:
        values = efficiencies(one)
        if len(values) > 1:
            counts = (min(values), max(values))
            by_counts.setdefault(counts, {})[one.label] = values[max(values)]
    sentences = [
        f"{workers_text(most)} are "
        f"{_range({label: value * most / fewest for label, value in values.items()}, _two_digits)} "
        f"times as fast as {fewest}: efficiency {_range(values, _percent, named=True)}."
        for (fewest, most), values in by_counts.items()
    ]
    if sentences:
        numbers = {label: value for values in by_counts.values() for label, value in values.items()}
        yield Finding(
            "Efficiency", workload.title, tuple(sentences), LITERATURE["efficiency"], numbers
        )


def _in_band(workload: Workload) -> Iterator[Finding]:
    yield from _against(
        workload, "In band against out of band", IN_BAND, ALLREDUCE,
        "Spark's shuffle takes", LITERATURE["in-band"],
    )  # fmt: skip


def _servers(workload: Workload) -> Iterator[Finding]:
    yield from _against(
        workload, "Parameter servers against allreduce", PARAMETER_SERVERS, ALLREDUCE,
        "Parameter servers take", LITERATURE["servers"],
    )  # fmt: skip


def _against(
    workload: Workload, topic: str, backend: str, other: str, subject: str, literature: str
) -> Iterator[Finding]:
    """The fastest series of one backend against the fastest of another, by workers."""
    mine, theirs = (_fastest_by_workers(workload, name) for name in (backend, other))
    common = sorted(set(mine) & set(theirs) - {1})
    if not common:
        return
    (_, ours), (their_label, reference) = mine[common[-1]], theirs[common[-1]]
    sentence = (
        f"{subject}{_times(ours, reference)} as long as {their_label} on {common[-1]} workers: "
        f"{_s(ours)} against {_s(reference)} an epoch."
    )
    numbers = {f"{w} workers": mine[w][1].mean / theirs[w][1].mean for w in common}
    yield Finding(topic, workload.title, (sentence,), literature, numbers)


def _fastest_by_workers(workload: Workload, backend: str) -> dict[int, tuple[str, Measured]]:
    fastest: dict[int, tuple[str, Measured]] = {}
    for one in workload.series:
        if one.case.backend == backend and one.case.link_mbit is None:
            for workers, mean in one.measured(lambda record: record.seconds_per_epoch).items():
                if workers not in fastest or mean.mean < fastest[workers][1].mean:
                    fastest[workers] = (one.label, mean)
    return fastest


def _transports(workload: Workload) -> Iterator[Finding]:
    workers = workload.most_workers
    ranked = _ranked(workload.distributed, workers, lambda record: record.seconds_per_epoch)
    if workers < 2 or len(ranked) < 2:
        return
    (first, best), (second, next_best), (last, slowest) = ranked[0], ranked[1], ranked[-1]
    both = f"{first} and {second}, equally fast" if equal(best, next_best) else first
    lead = f"{both}: {_s(best)} an epoch on {workers} workers."
    trail = f"Slowest: {last}, {slowest.mean / best.mean:.3g} times as long."
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
    never = [label for label in tried if label not in dict(ranked)]
    sentences = []
    if ranked:
        (first, soonest), (last, latest) = ranked[0], ranked[-1]
        then = "" if first == last else f"; last {last}, {_s(latest)}"
        sentences.append(f"On {workers_text(workers)} first {first}, {_s(soonest)}{then}.")
    if never:
        sentences.append(f"Not reached by {_listed(never)}.")
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
        mean = one.measured(lambda record: record.seconds_per_epoch).get(workload.most_workers)
        if one.case.link_mbit and mean is not None:
            by_stack.setdefault(one.stack, {})[one.case.link_mbit] = mean
    by_rates: dict[tuple[int, int], list[str]] = {}
    numbers = {}
    for stack, rates in by_stack.items():
        slow, fast = min(rates), max(rates)
        if slow != fast:
            numbers[stack] = rates[slow].mean / rates[fast].mean
            by_rates.setdefault((slow, fast), []).append(
                f"{_times(rates[slow], rates[fast]).strip() or '1 times'} as long with {stack}"
            )
    sentences = [
        f"An epoch over {link_rate(slow)} instead of {link_rate(fast)} takes {_listed(parts)}."
        for (slow, fast), parts in by_rates.items()
    ]
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
    pairs: dict[int, dict[str, tuple[float, float]]] = {}
    for label in values[0]:
        common = set(values[0][label]) & set(values[1].get(label, {}))
        if common and max(common) > 1:
            one, other = (value[label][max(common)] for value in values)
            pairs.setdefault(max(common), {})[label] = (one, other)
    parts = [
        f"Efficiency of {workers} workers: "
        + ", ".join(
            f"{_range({label: pair[which] for label, pair in found.items()}, _percent)} with "
            f"{get_model(workload.model).title} ({get_model(workload.model).weights:,} weights)"
            for which, workload in enumerate((small, large))
        )
        + "."
        for workers, found in pairs.items()
    ]
    if parts:
        numbers = {
            label: large_one - small_one
            for found in pairs.values()
            for label, (small_one, large_one) in found.items()
        }
        yield Finding("Size of the model", "all", tuple(parts), LITERATURE["size"], numbers)


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
            f"{workload.title}, {one.label} on {workers_text(workers)}: {_listed(_statuses(runs))}."
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
    return "" if equal(ours, reference) else f" {ours.mean / reference.mean:.3g} times"


def _range(values: Mapping[str, float], text: Callable[[float], str], named: bool = False) -> str:
    """Smallest and largest of the values, with whose they are if asked for."""
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    ends = [text(values[low]), text(values[high])]
    if named and ends[0] != ends[1]:
        ends = [f"{end} with {label}" for end, label in zip(ends, (low, high), strict=True)]
    return " to ".join(dict.fromkeys(ends))


def _two_digits(number: float) -> str:
    return f"{number:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _s(mean: Measured) -> str:
    return f"{mean.mean:.3g} s"
