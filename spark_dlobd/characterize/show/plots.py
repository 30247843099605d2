"""The paper's figures, one function each: a workload to a matplotlib figure, or None."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from spark_dlobd.characterize.results.comparison import (
    Measured,
    Runs,
    Series,
    Workload,
    efficiencies,
)
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.show import style
from spark_dlobd.report import look
from spark_dlobd.report.words import workers_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CAP = 3
_LONG_LABEL = 20


def end_to_end(workload: Workload) -> Figure | None:
    """Seconds of training and testing, by number of workers and stack."""
    counts = sorted({workers for one in workload.series for workers in one.runs})
    if not workload.most_workers:
        return None
    figure, (axes,) = look.new_figure(height=4.1, grid="y")
    width = 0.82 / len(workload.series)
    for number, one in enumerate(workload.series):
        seconds = one.measured(lambda record: record.seconds)
        offset = (number - (len(workload.series) - 1) / 2) * width
        places = [counts.index(workers) + offset for workers in seconds]
        axes.bar(
            places,
            [m.mean for m in seconds.values()],
            width * 0.94,
            yerr=_errors(list(seconds.values())),
            capsize=_CAP,
            label=one.label,
            error_kw={"linewidth": 1},
            **style.bar_style(one),
        )
        for workers, runs in one.runs.items():
            if not runs.finished:
                _mark_failure(axes, counts.index(workers) + offset, runs)
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set_xlabel("workers")
    axes.set_ylabel("end-to-end seconds")
    axes.margins(y=0.08)
    style.legend(figure, axes)
    return figure


def protocols(workload: Workload) -> Figure | None:
    """Seconds per epoch of every way gradients travel, fastest first."""
    workers = workload.most_workers
    found = [
        (one, mean)
        for one in workload.distributed
        if workers in one.runs
        and (mean := one.runs[workers].measure(lambda record: record.seconds_per_epoch)) is not None
    ]
    if len(found) < 2 or workers < 2:
        return None
    found.sort(key=lambda pair: pair[1].mean)
    figure, (axes,) = look.new_figure(height=1.2 + 0.42 * len(found), grid="x")
    longest = max(mean.mean + mean.std for _, mean in found)
    for place, (one, mean) in enumerate(found):
        axes.barh(
            place,
            mean.mean,
            0.66,
            xerr=_errors([mean]),
            capsize=_CAP,
            error_kw={"linewidth": 1},
            **style.bar_style(one),
        )
        end = mean.mean + mean.std + 0.015 * longest
        look.note(axes, end, place, _seconds(mean.mean), va="center")
    axes.set_yticks(range(len(found)), [_in_two_lines(one.label) for one, _ in found])
    axes.set_xlim(0, 1.14 * longest)
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds per epoch, {workers} workers")
    return figure


def accuracy_over_time(workload: Workload, target: float) -> Figure | None:
    """Accuracy at the ends of epochs against seconds since the fit began."""
    found = _at_most_workers(workload, lambda record: record.accuracy_over_time)
    if not found:
        return None
    figure, (axes,) = look.new_figure(height=3.9, grid="y")
    for one, runs in found:
        label: str | None = one.label
        for record in runs.finished:
            points = record.accuracy_over_time
            if points:
                seconds, values = zip(*points, strict=True)
                percent = [100 * value for value in values]
                alpha = 1.0 if len(runs.finished) == 1 else 0.6
                axes.plot(
                    seconds, percent, label=label, alpha=alpha,
                    **style.line_style(one, len(points)),
                )  # fmt: skip
                label = None
    axes.axhline(100 * target, color=look.FAINT, linewidth=1, linestyle=(0, (2, 2)))
    look.note(
        axes, 0.01, 100 * target, f"target {100 * target:g} %", va="bottom", color=look.FAINT,
        transform=axes.get_yaxis_transform(),
    )  # fmt: skip
    axes.set_xlim(left=0)
    axes.margins(y=0.08)
    axes.set_xlabel("seconds since the fit began")
    axes.set_ylabel(f"accuracy (%), {_workers_text(found)}")
    style.legend(figure, axes)
    return figure


def accumulated_epochs(workload: Workload) -> Figure | None:
    """Seconds of training up to the end of each epoch."""
    found = _at_most_workers(workload, lambda record: record.epoch_seconds)
    if not found:
        return None
    figure, (axes,) = look.new_figure(height=3.9, grid="y")
    for one, runs in found:
        sums = [list(accumulate(record.epoch_seconds)) for record in runs.finished]
        shortest = min(len(values) for values in sums if values)
        means = [Measured.of([v[epoch] for v in sums if v]) for epoch in range(shortest)]
        axes.errorbar(
            range(1, shortest + 1),
            [mean.mean for mean in means],
            yerr=_errors(means),
            capsize=_CAP,
            elinewidth=1,
            label=one.label,
            **style.line_style(one, shortest),
        )
    look.whole_numbers(axes)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"accumulated seconds, {_workers_text(found)}")
    style.legend(figure, axes)
    return figure


def scalability(workload: Workload) -> Figure | None:
    """Images per second and efficiency against the number of workers."""
    rates = {
        number: one.measured(lambda record: record.rows_per_second)
        for number, one in enumerate(workload.distributed)
    }
    shown = {number: rate for number, rate in rates.items() if len(rate) > 1}
    if not shown:
        return None
    figure, (above, below) = look.new_figure(rows=2, height=5.0, grid="y")
    counts = sorted({workers for rate in shown.values() for workers in rate})
    for number, rate in shown.items():
        one = workload.distributed[number]
        means = list(rate.values())
        above.errorbar(
            list(rate), [m.mean for m in means], yerr=_errors(means), capsize=_CAP, elinewidth=1,
            label=one.label, **style.line_style(one),
        )  # fmt: skip
        fewest = min(rate)
        ideal = [rate[fewest].mean * workers / fewest for workers in counts]
        above.plot(
            counts, ideal, color=style.color(one), linewidth=0.8, alpha=0.5, linestyle=(0, (1, 2))
        )
        percent = {workers: 100 * value for workers, value in efficiencies(one).items()}
        below.plot(list(percent), list(percent.values()), **style.line_style(one))
    above.set_ylim(bottom=0)
    above.set_ylabel("images/s (dotted: ideal)")
    below.axhline(100, color=look.FAINT, linewidth=0.8, linestyle=(0, (1, 2)))
    below.set_ylim(bottom=0)
    below.set_ylabel("efficiency (%)")
    below.set_xlabel("workers")
    if counts[-1] > 8 * counts[0]:
        below.set_xscale("log", base=2)
    below.set_xticks(counts, [str(count) for count in counts], minor=False)
    below.minorticks_off()
    style.legend(figure, above)
    return figure


def time_parts(workload: Workload) -> Figure | None:
    """Where the time of the training steps goes."""
    found = _at_most_workers(workload, lambda record: record.shares)
    if not found:
        return None
    figure, (axes,) = look.new_figure(height=1.7 + 0.42 * len(found), grid="x")
    for place, (_, runs) in enumerate(found):
        left = 0.0
        for part, color in look.PARTS.items():
            share = 100 * _mean_share(runs, part)
            axes.barh(
                place, share, 0.66, left=left, color=color,
                label=part.replace("_", "-") if place == 0 else None,
            )  # fmt: skip
            left += share
    axes.set_yticks(range(len(found)), [_in_two_lines(one.label) for one, _ in found])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"% of the steps' time, {_workers_text(found)}")
    style.legend(figure, axes, columns=3)
    return figure


_PANELS: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("CPU (%)", ("cpu_percent",), 1.0),
    ("memory (GiB)", ("rss_bytes",), 2.0**30),
    ("network (MB/s)", ("sent_bytes_per_s", "received_bytes_per_s"), 1e6),
    ("GPU (%)", ("gpu_percent",), 1.0),
    ("GPU memory (GiB)", ("gpu_memory_bytes",), 2.0**30),
)


def utilization(runs: Runs) -> Figure | None:
    """CPU, memory and network of every rank over time, of the first run that has them."""
    samples = next((record.utilization for record in runs.finished if record.utilization), None)
    if samples is None:
        return None
    panels = [panel for panel in _PANELS if any(panel[1][0] in series for series in samples)]
    figure, all_axes = look.new_figure(rows=len(panels), height=0.9 + 1.55 * len(panels), grid="y")
    for axes, (title, names, unit) in zip(all_axes, panels, strict=True):
        for series in samples:
            parts = [series[name] for name in names if name in series]
            axes.plot(
                series["seconds"][: len(parts[0])] if parts else [],
                [sum(values) / unit for values in zip(*parts, strict=True)],
                color=look.LINES[series["rank"] % len(look.LINES)],
                linewidth=1.2,
                label=f"rank {series['rank']}",
            )
        axes.set_ylim(bottom=0)
        axes.set_ylabel(title)
    all_axes[-1].set_xlim(left=0)
    all_axes[-1].set_xlabel("seconds since the fit began")
    style.legend(figure, all_axes[0], columns=4)
    return figure


def _at_most_workers(
    workload: Workload, has: Callable[[CaseRecord], object]
) -> list[tuple[Series, Runs]]:
    """Every stack's runs on the workload's largest number of workers, if they have it."""
    workers = workload.most_workers
    return [
        (one, one.runs[workers])
        for one in workload.series
        if workers in one.runs and any(map(has, one.runs[workers].finished))
    ]


def _mean_share(runs: Runs, part: str) -> float:
    mean = runs.measure(lambda record: record.shares.get(part))
    return 0.0 if mean is None else mean.mean


def _errors(values: Sequence[Measured]) -> list[float] | None:
    """Standard deviations: of a single run none, which draws no whisker."""
    if all(measured.runs < 2 for measured in values):
        return None
    return [measured.std if measured.runs > 1 else math.nan for measured in values]


def _in_two_lines(label: str) -> str:
    """A long name of a stack beside a bar: what is in brackets goes below."""
    return label.replace(" (", "\n(", 1) if len(label) > _LONG_LABEL else label


def _mark_failure(axes: Axes, place: float, runs: Runs) -> None:
    look.note(
        axes, place, 0.012, runs.records[-1].status, transform=axes.get_xaxis_transform(),
        rotation=90, ha="center", va="bottom", color=look.FAILED,
    )  # fmt: skip


def _workers_text(found: Sequence[tuple[Series, Runs]]) -> str:
    return workers_text(found[0][1].case.workers)


def _seconds(value: float) -> str:
    return f"{value:.3g} s"
