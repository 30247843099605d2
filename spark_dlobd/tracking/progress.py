"""One live line about a running fit on the driver's terminal."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_WINDOW_S = 20.0


class Rate:
    """Steps a second over the last seconds.

    Parameters
    ----------
    clock : callable
        Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._points: deque[tuple[float, int]] = deque()

    def add(self, done: int) -> None:
        """Note that `done` steps have been made so far."""
        now = self._clock()
        self._points.append((now, done))
        while len(self._points) > 2 and self._points[0][0] < now - _WINDOW_S:
            self._points.popleft()

    def per_second(self) -> float | None:
        """Steps a second; None before two points in time are known."""
        if len(self._points) < 2:
            return None
        (began, first), (ended, last) = self._points[0], self._points[-1]
        return (last - first) / (ended - began) if ended > began else None


class ProgressLine:
    """Epoch, step, loss, rows a second and time left in one line of `rich`.

    Before the first step it shows the phase. It is drawn by `rich`'s own thread,
    four times a second.

    Parameters
    ----------
    epochs, steps_per_epoch, batch_size : int
        As for `Reporter`.
    console : rich.console.Console, optional
        Default is standard error.
    clock : callable, optional
        Seconds that only grow; for tests.
    """

    def __init__(
        self,
        *,
        epochs: int,
        steps_per_epoch: int,
        batch_size: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn

        self._epochs = epochs
        self._steps = steps_per_epoch
        self._batch_size = batch_size
        self._rate = Rate(clock)
        self._done = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[facts]}"),
            console=console or RichConsole(stderr=True),
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("", total=epochs * steps_per_epoch, facts="")

    def phase(self, name: str) -> None:
        """Show the name of a phase until steps arrive."""
        self._progress.start()
        if self._done == 0 or name != "train":
            self._progress.update(self._task, description=name)

    def expect(self, steps_per_epoch: int) -> None:
        """Take the number of steps of an epoch."""
        self._steps = steps_per_epoch
        self._progress.update(self._task, total=self._epochs * steps_per_epoch)

    def step(self, epoch: int, step: int, metrics: dict[str, float]) -> None:
        """Show one step."""
        done = epoch * self._steps + step + 1
        if done < self._done:
            return
        self._done = done
        self._rate.add(done)
        self._progress.update(
            self._task,
            completed=done,
            description=f"epoch {epoch + 1}/{self._epochs}",
            facts=self._facts(step, metrics),
        )

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Show the metrics of a whole epoch."""
        self._done = (epoch + 1) * self._steps
        self._progress.update(
            self._task,
            completed=self._done,
            description=f"epoch {epoch + 1}/{self._epochs}",
            facts=self._facts(self._steps - 1, metrics),
        )

    def close(self) -> None:
        """Draw the last state and leave the line."""
        self._progress.stop()

    def _facts(self, step: int, metrics: dict[str, float]) -> str:
        facts = [f"step {step + 1}/{self._steps}"]
        facts += [f"{name} {value:.4g}" for name, value in metrics.items() if "loss" in name]
        rate = self._rate.per_second()
        if rate:
            left = (self._epochs * self._steps - self._done) / rate
            facts += [f"{rate * self._batch_size:,.0f} rows/s", f"eta {_minutes(left)}"]
        return "  ".join(facts)


def progress_for(
    verbose: int,
    *,
    epochs: int,
    steps_per_epoch: int,
    batch_size: int,
    clock: Callable[[], float] = time.monotonic,
) -> ProgressLine | None:
    """Return the line, or None where `verbose` is 0 or standard error is not a terminal."""
    if not verbose or sys.stderr is None or not sys.stderr.isatty():
        return None
    return ProgressLine(
        epochs=epochs, steps_per_epoch=steps_per_epoch, batch_size=batch_size, clock=clock
    )


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
