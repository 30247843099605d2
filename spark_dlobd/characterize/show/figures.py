"""All figures of a set of results, as pictures in files or bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spark_dlobd.characterize.results.comparison import Workload, workloads
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.show import plots
from spark_dlobd.report import look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TARGET_ACCURACY", "Drawn", "draw_figures", "save_figures"]

TARGET_ACCURACY = 0.7
"""The accuracy whose time the literature compares."""

UTILIZATION = "Utilization over time"


@dataclass(frozen=True)
class Drawn:
    """One figure.

    Attributes
    ----------
    name : str
        For file names, e.g. ``"lenet-mnist-end-to-end"``.
    kind : str
        What it shows, in words: its heading.
    subject : str
        Of what.
    caption : str
        What to see in it; also its description for those who do not see it.
    generated : bool
        Whether the data behind it were drawn by a program.
    figure : matplotlib.figure.Figure
        The picture.
    """

    name: str
    kind: str
    subject: str
    caption: str
    generated: bool
    figure: Figure

    def png(self) -> bytes:
        """The picture as a PNG file."""
        return look.picture(self.figure, "png", self.name)

    def svg(self) -> bytes:
        """The picture as an SVG file, the same for the same results."""
        return look.picture(self.figure, "svg", self.name)


def draw_figures(records: Iterable[CaseRecord], target: float = TARGET_ACCURACY) -> list[Drawn]:
    """Draw every figure that the results have numbers for. Runs on the driver.

    Parameters
    ----------
    records : iterable of CaseRecord
        All results of a sweep.
    target : float, default 0.7
        Accuracy that is marked in the figures of accuracy over time.
    """
    found = [drawn for workload in workloads(records) for drawn in _of_workload(workload, target)]
    for drawn in found:
        _freeze(drawn.figure)
    return found


def save_figures(drawn: Sequence[Drawn], folder: Path) -> list[Path]:
    """Write each figure as PNG and SVG; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for one in drawn:
        for suffix, content in (("png", one.png()), ("svg", one.svg())):
            path = folder / f"{one.name}.{suffix}"
            path.write_bytes(content)
            paths.append(path)
    return paths


def _freeze(figure: Figure) -> None:
    """Lay out once and for all, so that every file of a figure is the same picture."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _of_workload(workload: Workload, target: float) -> Iterator[Drawn]:
    bars = "Each bar is one run."
    if workload.repeated:
        bars = "Bars are means of the repetitions, whiskers their standard deviation."
    made: list[tuple[str, str, Figure | None, str]] = [
        (
            "end-to-end", "End-to-end time", plots.end_to_end(workload),
            f"Seconds from the call of fit to the scored test rows. {bars}",
        ),
        (
            "protocols", "Ways for gradients to travel", plots.protocols(workload),
            f"Seconds per epoch on the largest number of workers, fastest first. {bars}",
        ),
        (
            "accuracy", "Accuracy over time", plots.accuracy_over_time(workload, target),
            "Each line is a run; a point is the end of an epoch. Lines that start later spent "
            "longer on starting up.",
        ),
        (
            "epochs", "Accumulated epoch time", plots.accumulated_epochs(workload),
            "Seconds of training steps up to each epoch, start-up and validation left out.",
        ),
        (
            "scalability", "Scalability", plots.scalability(workload),
            "Images per second, and efficiency: the gain over the fewest workers divided by the "
            "factor of workers.",
        ),
        (
            "time-parts", "Where the time goes", plots.time_parts(workload),
            "Parts of the training steps' time, means over ranks and repetitions.",
        ),
    ]  # fmt: skip
    for name, kind, figure, caption in made:
        if figure is not None:
            yield Drawn(
                f"{workload.slug}-{name}", kind, workload.title, caption, workload.generated, figure
            )
    yield from _utilizations(workload)


def _utilizations(workload: Workload) -> Iterator[Drawn]:
    workers = workload.most_workers
    for one in workload.series:
        figure = plots.utilization(one.runs[workers]) if workers in one.runs else None
        if figure is not None:
            case = one.runs[workers].case
            number = f"{case.transport}-{one.variant}" if one.variant else case.transport
            yield Drawn(
                f"{workload.slug}-utilization-{number}",
                UTILIZATION,
                f"{workload.title}: {one.label}, {workers} workers",
                "CPU and memory are those of each rank's process (100 % is one core). Network is "
                "what its host sent and received, loopback included.",
                workload.generated,
                figure,
            )
