"""What a running fit shows on the driver: a live line, or lines of a log."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

logger = logging.getLogger("spark_dlobd")

_WINDOW_S = 20.0
_QUIET_S = 10.0
_LONGEST_QUIET_S = 300.0
_NOTEBOOK_INTERVAL_S = 0.5
_PHASES = {
    "start": "start workers",
    "train": "first step",
}
_IN_STEPS = ("train epoch", "validate epoch")


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


class Activity:
    """What a fit does at this moment, in words.

    Parameters
    ----------
    epochs, steps_per_epoch, batch_size : int
        As for `Reporter`.
    clock : callable, optional
        Seconds that only grow; for tests.

    Examples
    --------
    >>> now = [0.0]
    >>> activity = Activity(epochs=1, steps_per_epoch=2, batch_size=8, clock=lambda: now[0])
    >>> activity.phase("materialize"); now[0] = 3.0
    >>> activity.words()
    'materialize  3 s'
    """

    def __init__(
        self,
        *,
        epochs: int,
        steps_per_epoch: int,
        batch_size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.done = 0
        self._epochs = epochs
        self._steps = steps_per_epoch
        self._batch_size = batch_size
        self._rate = Rate(clock)
        self._phase = self._doing = self._slow = ""
        self._metrics: dict[str, float] = {}
        self._since = clock()

    @property
    def total(self) -> int:
        """Steps of the whole fit."""
        return self._epochs * self._steps

    @property
    def in_steps(self) -> bool:
        """Whether there are steps to show: after the first and before the last."""
        return self._phase == "train" and 0 < self.done < self.total

    def phase(self, name: str) -> None:
        """Begin a phase, or go back to one."""
        self._phase, self._doing = name, ""
        self._since = self.clock()

    def doing(self, text: str) -> None:
        """What a rank does within the phase, e.g. ``import tensorflow``."""
        kind = _kind(text)
        if kind != _kind(self._doing):
            self._since = self.clock()
        self._doing = text

    def expect(self, steps_per_epoch: int) -> None:
        """Take the number of steps of an epoch."""
        self._steps = steps_per_epoch

    def slow(self, text: str) -> None:
        """Name a rank that keeps the others waiting."""
        self._slow = text

    def step(self, epoch: int, step: int, metrics: dict[str, float]) -> None:
        """One step is done."""
        done = epoch * self._steps + step + 1
        if done >= self.done:
            self._advance(done, metrics)

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """A whole epoch is done; after a restart it may be an earlier one."""
        self._advance((epoch + 1) * self._steps, metrics)

    def _advance(self, done: int, metrics: dict[str, float]) -> None:
        self.done, self._metrics, self._doing = done, metrics, ""
        self._rate.add(done)
        self._since = self.clock()

    @property
    def waited(self) -> int:
        """Seconds of the present wait, or since the last step."""
        return int(self.clock() - self._since)

    def words(self) -> str:
        """One line; whatever one waits for has its seconds."""
        waited = self.waited
        if not self.in_steps:
            return f"{self._wait()}  {waited} s"
        facts = self._facts()
        if _kind(self._doing) == "validate":
            facts.append(f"validation  {waited} s")
        elif waited >= _QUIET_S:
            facts.append(f"no step for {waited} s")
        return "  ".join(facts)

    def _wait(self) -> str:
        kind = _kind(self._doing)
        if self._phase != "train":
            return _PHASES.get(self._phase, self._phase)
        if self._doing and kind not in ("train", "validate"):
            return self._doing if self.done else f"start workers: {self._doing}"
        if kind == "validate" and self.done:
            return f"epoch {self._epochs}/{self._epochs}: validation"
        return "finish" if self.done else _PHASES["train"]

    def _facts(self) -> list[str]:
        epoch, step = divmod(self.done - 1, self._steps)
        facts = [f"epoch {epoch + 1}/{self._epochs}", f"step {step + 1}/{self._steps}"]
        facts += [f"{name} {value:.4g}" for name, value in self._metrics.items() if "loss" in name]
        rate = self._rate.per_second()
        if rate:
            left = (self.total - self.done) / rate
            facts += [f"{rate * self._batch_size:,.0f} rows/s", f"eta {_minutes(left)}"]
        return [*facts, self._slow] if self._slow else facts


def _kind(text: str) -> str:
    """What a rank's phase is about, without its numbers."""
    return text.split()[0] if text.startswith(_IN_STEPS) else text


class Display:
    """Shows an `Activity`; what is common to all ways of showing it.

    Parameters
    ----------
    activity : Activity
        What is shown.
    """

    def __init__(self, activity: Activity) -> None:
        self.activity = activity
        self._started = False

    def phase(self, name: str) -> None:
        """Show the name of a phase until steps arrive."""
        self.activity.phase(name)
        if not self._started:
            self._started = True
            self.start()

    def doing(self, text: str) -> None:
        """Show what a rank does within the phase."""
        self.activity.doing(text)

    def expect(self, steps_per_epoch: int) -> None:
        """Take the number of steps of an epoch."""
        self.activity.expect(steps_per_epoch)

    def slow(self, text: str) -> None:
        """Show which rank keeps the others waiting."""
        self.activity.slow(text)

    def step(self, epoch: int, step: int, metrics: dict[str, float]) -> None:
        """Show one step."""
        self.activity.step(epoch, step, metrics)

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Show the metrics of a whole epoch."""
        self.activity.epoch(epoch, metrics)

    def start(self) -> None:
        """Begin to show it."""

    def close(self) -> None:
        """Show it no longer."""

    def say(self, sentences: list[str]) -> None:
        """Print the last words of the fit, after `close`."""
        print("\n".join(sentences), flush=True)


class ProgressLine(Display):
    """A live line in the terminal, drawn by `rich`'s own thread four times a second.

    Epoch, step, loss, rows a second and time left; before the first step and after the last
    one the phase with its seconds. It goes away at the end. Of several fits at the same time
    one has the line.

    Parameters
    ----------
    activity : Activity
        What is shown.
    console : rich.console.Console, optional
        Default is standard error.
    """

    _one_at_a_time = threading.Lock()

    def __init__(self, activity: Activity, console: Console | None = None) -> None:
        from rich.console import Console as RichConsole
        from rich.live import Live
        from rich.spinner import Spinner

        super().__init__(activity)
        self._spinner = Spinner("dots")
        self._has_line = False
        self._console = console or RichConsole(stderr=True)
        self._live = Live(
            get_renderable=self._draw,
            console=self._console,
            refresh_per_second=4,
            transient=True,
            # into a pipe or file go the prints of callbacks alone
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )

    def start(self) -> None:
        """Draw from now on."""
        self._has_line = self._one_at_a_time.acquire(blocking=False)
        if self._has_line:
            self._live.start(refresh=True)

    def close(self) -> None:
        """Wipe the line."""
        if self._has_line:
            self._has_line = False
            try:
                self._live.stop()
            finally:
                self._one_at_a_time.release()

    def say(self, sentences: list[str]) -> None:
        """Print the last words where the line was."""
        self._console.print("\n".join(sentences), markup=False, highlight=False, soft_wrap=True)

    def _draw(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        activity = self.activity
        words = Text(activity.words(), no_wrap=True, overflow="ellipsis")
        line = Table.grid(padding=(0, 1))
        if activity.in_steps:
            width = 24 if self._console.width >= 100 else 10
            bar = ProgressBar(total=activity.total, completed=activity.done, width=width)
            line.add_row(self._spinner, bar, words)
        else:
            line.add_row(self._spinner, words)
        return line


class NotebookLine(Display):
    """A live line below the cell of a notebook, which becomes the last words of the fit.

    It needs no widgets. A thread of its own writes it twice a second.

    Parameters
    ----------
    activity : Activity
        What is shown.
    """

    def __init__(self, activity: Activity) -> None:
        super().__init__(activity)
        self._handle: Any = None
        self._ticker = _Ticker(_NOTEBOOK_INTERVAL_S, self._update)

    def start(self) -> None:
        """Show it from now on."""
        text = {"text/plain": self.activity.words()}
        # there, as the kernel runs this program
        display = importlib.import_module("IPython.display").display
        self._handle = display(text, raw=True, display_id=True)
        self._ticker.start()

    def close(self) -> None:
        """Leave an empty line."""
        self._ticker.stop()
        if self._handle is not None:
            self._handle.update({"text/plain": ""}, raw=True)

    def say(self, sentences: list[str]) -> None:
        """Put the last words into the line's place."""
        if self._handle is None:
            super().say(sentences)
        else:
            self._handle.update({"text/plain": "\n".join(sentences)}, raw=True)

    def _update(self) -> None:
        self._handle.update({"text/plain": self.activity.words()}, raw=True)


class EpochLines(Display):
    """A line an epoch on standard output, as Keras with ``verbose=2``.

    Parameters
    ----------
    activity : Activity
        What is shown.
    signs_of_life : bool, optional
        Whether what the fit waits for is printed too, where nothing was printed for 10
        seconds, then 20, 40, at most 300. Default False.
    """

    def __init__(self, activity: Activity, signs_of_life: bool = False) -> None:
        super().__init__(activity)
        self._broken = False
        self._epoch_began = self._printed = activity.clock()
        self._quiet_s = _QUIET_S
        self._ticker = _Ticker(1.0, self.tick) if signs_of_life else None

    def start(self) -> None:
        """Begin to watch for long waits."""
        if self._ticker:
            self._ticker.start()

    def phase(self, name: str) -> None:
        """The first epoch begins with the training."""
        super().phase(name)
        if name == "train" and not self.activity.done:
            self._epoch_began = self.activity.clock()

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Print its line."""
        super().epoch(epoch, metrics)
        now = self.activity.clock()
        began, self._epoch_began = self._epoch_began, now
        epochs, steps = self.activity._epochs, self.activity._steps
        self._quiet_s = _QUIET_S
        self._print(epoch_line(epoch, epochs, steps, now - began, metrics))

    def tick(self) -> None:
        """Print what goes on, if nothing was printed for long."""
        is_worth_it = self.activity.in_steps or self.activity.waited >= _QUIET_S / 2
        if is_worth_it and self.activity.clock() - self._printed >= self._quiet_s:
            self._quiet_s = min(2 * self._quiet_s, _LONGEST_QUIET_S)
            self._print(f"... {self.activity.words()}")

    def close(self) -> None:
        """No more signs of life."""
        if self._ticker:
            self._ticker.stop()

    def say(self, sentences: list[str]) -> None:
        """Print the last words as one line of the log."""
        self._print(" ".join(sentences))

    def _print(self, line: str) -> None:
        self._printed = self.activity.clock()
        if self._broken:
            return
        try:
            print(line, flush=True)
        except (OSError, ValueError):  # closed, or a pipe that nobody reads
            self._broken = True
            logger.exception("The line of an epoch could not be printed: no more of them.")


class _Ticker:
    """Calls something again and again on a thread of its own, until `stop` or a failure."""

    def __init__(self, interval_s: float, call: Callable[[], None]) -> None:
        self._interval_s = interval_s
        self._call = call
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spark_dlobd-progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self._call()
            except Exception:
                logger.exception("The progress line failed and is switched off.")
                return


def epoch_line(
    epoch: int, epochs: int, steps: int, seconds: float, metrics: dict[str, float]
) -> str:
    """What Keras prints of an epoch with ``verbose=2``, in one line.

    Parameters
    ----------
    epoch : int
        Counts from 0.
    epochs, steps : int
        Epochs of the fit, and steps of this one.
    seconds : float
        What the epoch took.
    metrics : dict of str to float
        Of all rows.

    Examples
    --------
    >>> epoch_line(0, 3, 10, 2.0, {"loss": 0.69314, "val_loss": 1e-5})
    'Epoch 1/3 - 10/10 - 2s - 200ms/step - loss: 0.6931 - val_loss: 1.0000e-05'
    """
    parts = [f"Epoch {epoch + 1}/{epochs}", f"{steps}/{steps}", f"{seconds:.0f}s"]
    parts.append(f"{1000 * seconds / steps:.0f}ms/step")
    for name, value in metrics.items():
        shown = f"{value:.4f}" if abs(value) > 1e-3 else f"{value:.4e}"
        parts.append(f"{name}: {shown}")
    return " - ".join(parts)


def progress_for(
    verbose: int | str,
    *,
    epochs: int,
    steps_per_epoch: int,
    batch_size: int,
    clock: Callable[[], float] = time.monotonic,
) -> Display | None:
    """Return what shows a fit.

    None for 0. For ``"auto"`` and 1 a live line where standard error is a terminal or the
    driver runs in a notebook; lines of epochs with signs of life elsewhere. Lines of epochs
    alone for 2.
    """
    if verbose == 0:
        return None
    activity = Activity(
        epochs=epochs, steps_per_epoch=steps_per_epoch, batch_size=batch_size, clock=clock
    )
    if verbose == 2:
        return EpochLines(activity)
    if _in_notebook():
        return NotebookLine(activity)
    if _in_terminal():
        return ProgressLine(activity)
    return EpochLines(activity, signs_of_life=True)


def _in_terminal() -> bool:
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def _in_notebook() -> bool:
    """Whether IPython's kernel shows what is displayed; `rich` knows Colab and Databricks too."""
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


@contextmanager
def waiting(text: str, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Show a spinner with seconds while something long goes on, where there is a terminal.

    Parameters
    ----------
    text : str
        What one waits for.
    clock : callable, optional
        Seconds that only grow; for tests.

    Examples
    --------
    >>> with waiting("starting Spark"):
    ...     spark = SparkSession.builder.getOrCreate()  # doctest: +SKIP
    """
    if not _in_terminal():
        yield
        return
    line = ProgressLine(Activity(epochs=1, steps_per_epoch=1, batch_size=1, clock=clock))
    line.phase(text)
    try:
        yield
    finally:
        line.close()


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
