"""What the results show, in sentences made from their numbers, next to the literature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from spark_dlobd.characterize.comparison import (
    Measured,
    Number,
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
    ours : str
        What these results show.
    literature : str
        What "Characterizing Deep Learning over Big Data Stacks on RDMA-capable Networks"
        and the talk on distributed TensorFlow on Spark found, on their clusters.
    numbers : dict of str to float
        What the sentences were made from.
    """

    topic: str
    subject: str
    ours: str
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
        "In-band synchronization needs the network most: RDMA made BigDL's VGG up to 2.7 times "
        "faster than IPoIB on 384 cores, and CaffeOnSpark, out of band, 22 % (AlexNet) and 15 % "
        "(GoogLeNet)."
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
    standard deviations together are called equal. What the results do not cover is
    not mentioned.

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
    return [*found, *_model_size(groups), *_failures(records)]


def _more_workers(workload: Workload) -> Iterator[Finding]:
    sentences, numbers = [], {}
    for one in workload.distributed:
        seconds = one.measured(seconds_per_epoch)
        if len(seconds) > 1:
            last = last_that_pays(seconds)
            numbers[one.label] = float(last)
            sentences.append(f"{one.label}: {_pays_text(seconds, last)}")
    if sentences:
        yield Finding(
            "More workers", workload.title, "; ".join(sentences) + ".", LITERATURE["workers"],
            numbers,
        )  # fmt: skip


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
    """Whether two means are closer than their standard deviations together."""
    return abs(one.mean - other.mean) < one.std + other.std


def _pays_text(seconds: Mapping[int, Measured], last: int) -> str:
    most = max(seconds)
    if last == most:
        return f"every step up to {_workers(most)} pays"
    following = min(workers for workers in seconds if workers > last)
    change = seconds[following].mean / seconds[last].mean - 1
    how = "no longer" if abs(change) < 0.005 else f"{abs(change):.0%} {_longer(change)}"
    epoch = "as long" if how == "no longer" else how
    return f"more than {_workers(last)} do not pay: with {following} an epoch takes {epoch}"


def _efficiency(workload: Workload) -> Iterator[Finding]:
    found = {}
    for one in workload.distributed:
        values = efficiencies(one)
        if len(values) > 1:
            found[one.label] = (max(values), min(values), values[max(values)])
    if not found:
        return
    parts = [
        f"{label} gets {value * most / fewest:.2f} times the images per second of "
        f"{_workers(fewest)} from {most} ({value:.0%})"
        for label, (most, fewest, value) in found.items()
    ]
    yield Finding(
        "Efficiency", workload.title, "; ".join(parts) + ".", LITERATURE["efficiency"],
        {label: value for label, (_, _, value) in found.items()},
    )  # fmt: skip


def _in_band(workload: Workload) -> Iterator[Finding]:
    yield from _against(
        workload, "In band against out of band", IN_BAND, ALLREDUCE,
        "Through Spark's shuffle", LITERATURE["in-band"],
    )  # fmt: skip


def _servers(workload: Workload) -> Iterator[Finding]:
    yield from _against(
        workload, "Parameter servers against allreduce", PARAMETER_SERVERS, ALLREDUCE,
        "With parameter servers", LITERATURE["servers"],
    )  # fmt: skip


def _against(
    workload: Workload, topic: str, backend: str, other: str, subject: str, literature: str
) -> Iterator[Finding]:
    """The fastest series of one backend against the fastest of another, by workers."""
    mine, theirs = (_fastest_by_workers(workload, name) for name in (backend, other))
    parts, numbers = [], {}
    for workers in sorted(set(mine) & set(theirs)):
        if workers == 1:
            continue
        (_, ours), (their_label, reference) = mine[workers], theirs[workers]
        numbers[f"{workers} workers"] = ours.mean / reference.mean
        parts.append(
            f"on {workers} workers an epoch takes {_times(ours, reference)} {their_label} "
            f"({_s(ours)} against {_s(reference)})"
        )
    if parts:
        yield Finding(topic, workload.title, f"{subject} {'; '.join(parts)}.", literature, numbers)


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
    lead = f"{first} is the fastest on {workers} workers with {_s(best)} an epoch"
    if equal(best, next_best):
        lead = (
            f"{first} and {second} are equally fast on {workers} workers with {_s(best)} an epoch"
        )
    ours = f"{lead}; {last} is the slowest with {_s(slowest)}, {slowest.mean / best.mean:.2f} times"
    yield Finding(
        "Fastest way for gradients", workload.title, ours + " as long.", LITERATURE["transport"],
        {label: mean.mean for label, mean in ranked},
    )  # fmt: skip


def _target(workload: Workload, target: float) -> Iterator[Finding]:
    workers = workload.most_workers
    ranked = _ranked(workload.series, workers, lambda record: record.seconds_to(target))
    tried = [one.label for one in workload.series if _has_accuracy(one, workers)]
    if not tried:
        return
    never = [label for label in tried if label not in {label for label, _ in ranked}]
    parts = [f"{label} after {_s(mean)}" for label, mean in ranked]
    parts += [f"{label} never" for label in never]
    ours = f"{target:.0%} is reached on {_workers(workers)} by {', '.join(parts)}."
    numbers = {label: mean.mean for label, mean in ranked}
    yield Finding(f"Time to {target:.0%}", workload.title, ours, LITERATURE["target"], numbers)


def _has_accuracy(one: Series, workers: int) -> bool:
    return workers in one.runs and any(r.accuracy_over_time for r in one.runs[workers].finished)


def _links(workload: Workload) -> Iterator[Finding]:
    """How much a slower link costs each stack, on the most workers."""
    workers = workload.most_workers
    by_stack: dict[tuple[str, str, int], dict[int, Measured]] = {}
    names: dict[tuple[str, str, int], str] = {}
    for one in workload.distributed:
        mean = one.measured(seconds_per_epoch).get(workers)
        case = one.case
        if case.link_mbit and mean is not None:
            key = (case.transport, case.compression, one.runs[workers].case.batch_size)
            by_stack.setdefault(key, {})[case.link_mbit] = mean
            names.setdefault(key, one.label)
    parts, numbers = [], {}
    for key, rates in by_stack.items():
        slow, fast = min(rates), max(rates)
        if slow != fast:
            ratio = rates[slow].mean / rates[fast].mean
            label = names[key].rsplit(", ", 1)[0]
            numbers[label] = ratio
            parts.append(
                f"{label} takes {ratio:.2f} times as long with {slow} as with {fast} Mbit/s"
            )
    if parts:
        yield Finding(
            "Speed of the network", workload.title, "; ".join(parts) + ".", LITERATURE["link"],
            numbers,
        )  # fmt: skip


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
            parts.append(f"{label} {pair[0]:.0%} and {pair[1]:.0%} on {workers} workers")
    if parts:
        names = [
            f"{get_model(w.model).title} ({get_model(w.model).weights:,} weights)"
            for w in (small, large)
        ]
        ours = f"Efficiency with {names[0]} and with {names[1]}: {'; '.join(parts)}."
        yield Finding("Size of the model", "all", ours, LITERATURE["size"], numbers)


def _efficiency_by_label(workload: Workload) -> dict[str, dict[int, float]]:
    return {one.label: efficiencies(one) for one in workload.distributed}


def _failures(records: list[CaseRecord]) -> Iterator[Finding]:
    if not records:
        return
    counts = {
        status: sum(record.status == status for record in records)
        for status in ("failed", "timed out")
    }
    bad = [f"{count} {status}" for status, count in counts.items() if count]
    ours = f"All {len(records)} runs finished."
    if bad:
        ours = f"Of {len(records)} runs {' and '.join(bad)}."
    numbers = {status: float(count) for status, count in counts.items()}
    yield Finding("Failures", "all", ours, LITERATURE["failures"], numbers)


def _ranked(series: Iterable[Series], workers: int, number: Number) -> list[tuple[str, Measured]]:
    means = [(one.label, one.measured(number).get(workers)) for one in series]
    known = [(label, mean) for label, mean in means if mean is not None]
    return sorted(known, key=lambda pair: pair[1].mean)


def _times(ours: Measured, reference: Measured) -> str:
    if equal(ours, reference):
        return "as long as with"
    return f"{ours.mean / reference.mean:.2f} times as long as with"


def _longer(change: float) -> str:
    return "longer" if change > 0 else "less"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _s(mean: Measured) -> str:
    return f"{mean.mean:.3g} s"
