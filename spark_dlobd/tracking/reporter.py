"""What backends tell the driver about a running fit."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spark_dlobd.report.observed import Observed
from spark_dlobd.tracking.progress import Display, progress_for
from spark_dlobd.users_line import users_line

if TYPE_CHECKING:
    from spark_dlobd.job.dataset import DatasetRef
    from spark_dlobd.tracking.base import Tracker

logger = logging.getLogger("spark_dlobd")
worker_logger = logging.getLogger("spark_dlobd.worker")

WORKER_LOG_LINES = 200


class Reporter:
    """Takes the events of one fit from any thread and fans them out.

    Runs on the driver. Backends know the reporter and nothing behind it.
    Calls of trackers are serialized, so a tracker need not be thread-safe. A
    tracker that raises is logged once with its traceback and then left out:
    nothing it does reaches the training.

    Parameters
    ----------
    epochs : int
        Passes over the data.
    steps_per_epoch : int
        Steps of one epoch, the same for every rank. Default 1, until `expect`.
    batch_size : int
        Rows of one step over all workers.
    trackers : sequence of Tracker, optional
        What the user asked for; `Tracker.new` of each receives the events.
    verbose : int or str, optional
        0 keeps the driver quiet; ``"auto"`` (default) and 1 show a live line in a terminal
        or a notebook, elsewhere as 2 with a sign of life in long waits; 2 prints a line an
        epoch to standard output. All but 0 pass workers' log lines on at INFO.
    clock : callable, optional
        Seconds that only grow; for tests.
    began : float, optional
        When the fit began, of `clock`. Default is now.

    Examples
    --------
    >>> reporter = Reporter(epochs=1, steps_per_epoch=2, batch_size=32, verbose=0)
    >>> with reporter.phase("train"):
    ...     reporter.steps([(0, 0, {"loss": 0.7}), (0, 1, {"loss": 0.5})])
    ...     reporter.epoch(0, {"loss": 0.6})
    >>> reporter.history
    {'loss': [0.6]}
    """

    def __init__(
        self,
        *,
        epochs: int,
        steps_per_epoch: int = 1,
        batch_size: int,
        trackers: Sequence[Tracker] = (),
        verbose: int | str = "auto",
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        self.observed = Observed(clock() if began is None else began, clock)
        """Times and measurements, for the report."""
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.verbose = verbose
        self.seconds: dict[str, float] = {}
        """Seconds spent in each phase; a phase entered twice adds up."""
        self.warnings: list[str] = []
        """Texts given to `warn`, for the report."""
        self._clock = clock
        self._lock = threading.RLock()
        self._trackers = tuple(_new_ones(trackers))
        self._listening = list(self._trackers)
        self._phases: list[str] = []
        self._by_epoch: dict[int, dict[str, float]] = {}
        self._worker_logs: dict[int, deque[str]] = {}
        self._finished = False
        self._users_line = users_line()
        self._progress: Display | None = progress_for(
            verbose,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            batch_size=batch_size,
            clock=clock,
        )

    @property
    def current_phase(self) -> str:
        """Name of the innermost phase; empty outside of all phases."""
        with self._lock:
            return self._phases[-1] if self._phases else ""

    @property
    def history(self) -> dict[str, list[float]]:
        """Per-epoch metrics in the order of epochs, as Keras's ``History``.

        An epoch that lacks a metric others have holds NaN, so that the lists
        stay aligned.
        """
        with self._lock:
            epochs = [self._by_epoch[epoch] for epoch in sorted(self._by_epoch)]
        names = dict.fromkeys(name for metrics in epochs for name in metrics)
        return {name: [metrics.get(name, math.nan) for metrics in epochs] for name in names}

    def expect(self, steps_per_epoch: int) -> None:
        """Tell how many steps an epoch has, once the rows are counted."""
        with self._lock:
            self.steps_per_epoch = steps_per_epoch
            self._show("expect", steps_per_epoch)

    def start(self, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Begin the run in every tracker. Call it on the thread that called ``fit``."""
        self._fan_out("start", params, tags)

    def dataset(self, data: DatasetRef, *, name: str = "train", source: str | None = None) -> None:
        """Tell trackers what is trained on.

        Parameters
        ----------
        data : DatasetRef
            The materialized rows.
        name : str, optional
            What the user would call the data.
        source : str, optional
            Where the rows came from; default is the materialized directory.
        """
        self._fan_out("dataset", describe_dataset(data, name, source))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the seconds of one phase, e.g. materialize, start, train, collect, log.

        A phase inside another counts for both.
        """
        with self._lock:
            self._phases.append(name)
            self._show("phase", name)
        began = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - began
                self._phases.remove(name)
                if self._phases:
                    self._show("phase", self._phases[-1])

    def step(self, epoch: int, step: int, metrics: dict[str, float]) -> None:
        """Metrics of one training step; `epoch` and `step` count from 0."""
        self.steps([(epoch, step, metrics)])

    def steps(self, bunch: Iterable[tuple[int, int, dict[str, float]]]) -> None:
        """Several ``(epoch, step, metrics)`` in one call."""
        with self._lock:
            for epoch, step, metrics in bunch:
                values = _as_floats(metrics)
                global_step = epoch * self.steps_per_epoch + step
                self._fan_out("step", epoch, step, global_step, values)
                self._show("step", epoch, step, values)

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Metrics of a whole epoch, averaged over all ranks.

        An epoch told again, after a restart from a checkpoint, replaces the
        earlier one and all that followed it.
        """
        values = _as_floats(metrics)
        with self._lock:
            for later in [known for known in self._by_epoch if known >= epoch]:
                del self._by_epoch[later]
            self._by_epoch[epoch] = values
            self.observed.epoch(epoch, values)
            self._fan_out("epoch", epoch, values)
            self._show("epoch", epoch, values)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        logger.info("epoch %d/%d  %s", epoch + 1, self.epochs, shown)

    def worker_phase(self, text: str) -> None:
        """What a rank of a gang, or the local backend, does now, e.g. ``train epoch 0``."""
        with self._lock:
            self.observed.worker_phase(text)
            self._show("doing", text)

    def measured(self, rank: int, facts: dict[str, Any]) -> None:
        """What one rank measured, as `Observed.measured` describes it."""
        with self._lock:
            self.observed.measured(rank, facts)

    def slow(self, rank: int, part: str, text: str) -> None:
        """Warn of a rank that keeps the others waiting, and name it in the progress line.

        Parameters
        ----------
        rank : int
            Which.
        part : str
            Where it loses most: ``"input"`` or ``"compute"``.
        text : str
            The warning.
        """
        self.warn(text)
        with self._lock:
            self._show("slow", f"rank {rank} slow ({part})")

    def log(self, rank: int, host: str, text: str) -> None:
        """Keep and pass on what a worker printed or logged."""
        level = logging.INFO if self.verbose else logging.DEBUG
        lines = text.rstrip("\n").splitlines()
        with self._lock:
            kept = self._worker_logs.setdefault(rank, deque(maxlen=WORKER_LOG_LINES))
            kept.extend(lines)
        for line in lines:
            worker_logger.log(level, "[rank %d on %s] %s", rank, host, line)

    def worker_logs(self, rank: int) -> list[str]:
        """Last 200 lines of one rank, oldest first."""
        with self._lock:
            return list(self._worker_logs.get(rank, ()))

    def warn(self, text: str) -> None:
        """Log a warning, with the user's line that began the fit, and keep it for the report."""
        with self._lock:
            self.warnings.append(text)
        logger.warning("%s", f"{self._users_line}: {text}" if self._users_line else text)

    def ids(self) -> dict[str, str]:
        """Return under which ids the trackers have the fit, after `finish`."""
        found: dict[str, str] = {}
        for tracker in self._trackers:
            try:
                found |= tracker.ids()
            except Exception:
                logger.exception("%s does not tell its ids.", type(tracker).__name__)
        return found

    def last_words(self) -> list[str]:
        """Return what the trackers say after `finish` about where the fit is."""
        return [words for tracker in self._trackers for words in tracker.last_words()]

    def say(self, sentences: list[str]) -> None:
        """Print the last words of the fit, after `finish`, unless ``verbose=0``."""
        with self._lock:
            self._show("say", sentences)

    def finish(self, status: str, report: dict[str, Any], model: Any | None = None) -> None:
        """End the progress line and the run in every tracker; a second call does nothing.

        Parameters
        ----------
        status : {"FINISHED", "FAILED", "KILLED"}
            How the fit ended; `status_of` derives it from an exception.
        report : dict
            JSON-able facts of the fit.
        model : keras.Model, optional
            The trained model.
        """
        with self._lock:
            if self._finished:
                return
            self._finished = True
            self._show("phase", "log")
        try:
            self._fan_out("finish", status, self.history, report, model)
        finally:
            with self._lock:
                self._show("close")

    def _fan_out(self, method: str, *args: Any) -> None:
        with self._lock:
            for tracker in list(self._listening):
                try:
                    getattr(tracker, method)(*args)
                except Exception:
                    self._listening.remove(tracker)
                    logger.exception(
                        "%s failed in %s() and is left out for the rest of this fit.",
                        type(tracker).__name__,
                        method,
                    )

    def _show(self, method: str, *args: Any) -> None:
        if self._progress is None:
            return
        try:
            getattr(self._progress, method)(*args)
        except Exception:
            self._progress = None
            logger.exception("The progress line failed and is switched off.")


def _new_ones(trackers: Iterable[Tracker]) -> Iterator[Tracker]:
    for tracker in trackers:
        try:
            yield tracker.new()
        except Exception:
            logger.exception(
                "%s failed in new() and is left out of this fit.", type(tracker).__name__
            )


def status_of(error: BaseException | None) -> str:
    """Status of a run that ended with `error`: FINISHED, KILLED (Ctrl-C, exit) or FAILED."""
    if error is None:
        return "FINISHED"
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def describe_dataset(data: DatasetRef, name: str, source: str | None) -> dict[str, Any]:
    """JSON-able description of materialized rows: schema, row counts, source."""
    columns = {
        stored: {"name": column.name, "dtype": column.dtype, "shape": list(column.shape)}
        for stored, column in zip(data.columns.stored_names, data.columns.all, strict=True)
    }
    return {
        "name": name,
        "source": source or data.root,
        "columns": columns,
        "rows": {"training": data.rows("train"), "validation": data.rows("validation")},
        "skipped_rows": data.skipped_rows,
        "bytes": data.bytes,
    }


def _as_floats(metrics: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
