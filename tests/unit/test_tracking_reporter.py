from __future__ import annotations

import io
import logging
import math
import threading
from typing import Any

import pytest

from spark_dlobd.data.dataset import DatasetRef, RowGroup
from spark_dlobd.tracking.base import Tracker
from spark_dlobd.tracking.progress import ProgressLine, progress_for
from spark_dlobd.tracking.reporter import Reporter, status_of
from spark_dlobd.training.job import ColumnSpec, TensorColumn


class ListTracker:
    """Keeps every call; deliberately not thread-safe."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.inside = 0
        self.overlaps = 0

    def _note(self, *call: Any) -> None:
        self.inside += 1
        self.overlaps += self.inside > 1
        self.calls.append(call)
        self.inside -= 1

    def start(self, params: dict[str, Any], tags: dict[str, str]) -> None:
        self._note("start", params, tags)

    def step(self, epoch: int, step: int, global_step: int, metrics: dict[str, float]) -> None:
        self._note("step", epoch, step, global_step, metrics)

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        self._note("epoch", epoch, metrics)

    def finish(
        self, status: str, history: dict[str, list[float]], report: dict[str, Any], model: Any
    ) -> None:
        self._note("finish", status, history, report, model)


class BrokenTracker(ListTracker):
    def step(self, epoch: int, step: int, global_step: int, metrics: dict[str, float]) -> None:
        super().step(epoch, step, global_step, metrics)
        raise RuntimeError("no space left")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make(*trackers: Tracker, clock: Clock | None = None, **settings: Any) -> Reporter:
    defaults: dict[str, Any] = {"epochs": 2, "steps_per_epoch": 10, "batch_size": 4, "verbose": 0}
    return Reporter(**{**defaults, **settings}, trackers=trackers, clock=clock or Clock())


def test_phases_accumulate_and_nest() -> None:
    clock = Clock()
    reporter = make(clock=clock)
    with reporter.phase("train"):
        clock.now += 3
        with reporter.phase("collect"):
            assert reporter.current_phase == "collect"
            clock.now += 1
        assert reporter.current_phase == "train"
    with reporter.phase("train"):
        clock.now += 0.5
    assert reporter.seconds == {"train": 4.5, "collect": 1.0}
    assert reporter.current_phase == ""


def test_a_phase_that_raises_is_measured_and_left() -> None:
    clock = Clock()
    reporter = make(clock=clock)
    with pytest.raises(ValueError, match="boom"), reporter.phase("start"):
        clock.now += 2
        raise ValueError("boom")
    assert reporter.seconds == {"start": 2.0}
    assert reporter.current_phase == ""


def test_steps_carry_the_global_step() -> None:
    tracker = ListTracker()
    make(tracker).steps([(0, 9, {"loss": 1.0}), (1, 0, {"loss": 0.5})])
    assert tracker.calls == [
        ("step", 0, 9, 9, {"loss": 1.0}),
        ("step", 1, 0, 10, {"loss": 0.5}),
    ]


def test_history_is_ordered_by_epoch_and_aligned() -> None:
    reporter = make()
    reporter.epoch(0, {"loss": 1.0})
    reporter.epoch(1, {"loss": 0.5, "val_loss": 0.7})
    history = reporter.history
    assert history["loss"] == [1.0, 0.5]
    assert math.isnan(history["val_loss"][0])
    assert history["val_loss"][1] == 0.7


def test_a_repeated_epoch_replaces_itself_and_what_followed() -> None:
    reporter = make()
    for epoch, loss in ((0, 1.0), (1, 0.9), (2, 0.8), (1, 0.7)):
        reporter.epoch(epoch, {"loss": loss})
    assert reporter.history == {"loss": [1.0, 0.7]}


def test_a_raising_tracker_is_logged_once_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    broken, healthy = BrokenTracker(), ListTracker()
    reporter = make(broken, healthy)
    reporter.step(0, 0, {"loss": 1.0})
    reporter.step(0, 1, {"loss": 1.0})
    reporter.finish("FINISHED", {})
    assert len(broken.calls) == 1
    assert [call[0] for call in healthy.calls] == ["step", "step", "finish"]
    assert [record.message for record in caplog.records] == [
        "BrokenTracker failed in step() and is left out for the rest of this fit."
    ]
    assert "no space left" in caplog.text


def test_trackers_are_called_one_at_a_time_from_many_threads() -> None:
    tracker = ListTracker()
    reporter = make(tracker)
    barrier = threading.Barrier(8)

    def work(epoch: int) -> None:
        barrier.wait(10)
        for step in range(100):
            reporter.step(epoch, step, {"loss": 1.0})
            reporter.log(epoch, "host", f"line {step}")
        reporter.epoch(epoch, {"loss": float(epoch)})

    threads = [threading.Thread(target=work, args=(epoch,)) for epoch in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert tracker.overlaps == 0
    assert sum(call[0] == "step" for call in tracker.calls) == 800
    assert sum(call[0] == "epoch" for call in tracker.calls) == 8
    assert all(len(reporter.worker_logs(rank)) == 100 for rank in range(8))


def test_the_last_200_lines_of_a_rank_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    reporter = make(verbose=1)
    with caplog.at_level(logging.INFO, "spark_dlobd.worker"):
        reporter.log(1, "node7", "\n".join(f"line {number}" for number in range(250)) + "\n")
    assert reporter.worker_logs(1)[0] == "line 50"
    assert reporter.worker_logs(1)[-1] == "line 249"
    assert len(reporter.worker_logs(1)) == 200
    assert reporter.worker_logs(0) == []
    assert caplog.messages[0] == "[rank 1 on node7] line 0"
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_worker_lines_are_debug_when_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "spark_dlobd.worker"):
        make(verbose=0).log(0, "h", "hello")
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_warnings_are_logged_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    reporter = make()
    reporter.warn("2 rows skipped")
    assert reporter.warnings == ["2 rows skipped"]
    assert caplog.messages == ["2 rows skipped"]


def test_finish_reaches_trackers_once() -> None:
    tracker = ListTracker()
    reporter = make(tracker)
    reporter.epoch(0, {"loss": 1.0})
    reporter.finish("FINISHED", {"a": 1}, model="m")
    reporter.finish("FAILED", {})
    assert tracker.calls[1:] == [("finish", "FINISHED", {"loss": [1.0]}, {"a": 1}, "m")]


def test_dataset_goes_only_to_trackers_that_take_it() -> None:
    class WithDataset(ListTracker):
        def dataset(self, description: dict[str, Any]) -> None:
            self._note("dataset", description)

    columns = ColumnSpec(
        TensorColumn("x", "float32", (3,)), TensorColumn("y", "int64", (), num_classes=2)
    )
    data = DatasetRef(
        "file:///d", columns, (RowGroup("a", 5), RowGroup("b", 7)), (RowGroup("c", 2),)
    )
    plain, taking = ListTracker(), WithDataset()
    make(plain, taking).dataset(data, name="iris", source="s3://bucket/iris")
    assert plain.calls == []
    description = taking.calls[0][1]
    assert description["rows"] == {"training": 12, "validation": 2}
    assert description["source"] == "s3://bucket/iris"
    assert description["columns"]["features"] == {"name": "x", "dtype": "float32", "shape": [3]}


def test_tags_that_come_late_go_only_to_trackers_that_take_them() -> None:
    class WithTags(ListTracker):
        def tag(self, tags: dict[str, str]) -> None:
            self._note("tag", tags)

    plain, taking = ListTracker(), WithTags()
    make(plain, taking).tag({"backend": "shuffle"})
    assert plain.calls == []
    assert taking.calls == [("tag", {"backend": "shuffle"})]


def test_status_of_an_exception() -> None:
    assert status_of(None) == "FINISHED"
    assert status_of(ValueError()) == "FAILED"
    assert status_of(KeyboardInterrupt()) == "KILLED"


def test_progress_line_shows_epoch_step_loss_rate_and_eta() -> None:
    from rich.console import Console

    clock, screen = Clock(), io.StringIO()
    console = Console(force_terminal=True, file=screen, width=120, color_system=None)
    line = ProgressLine(epochs=2, steps_per_epoch=10, batch_size=100, console=console, clock=clock)
    line.phase("train")
    line.step(0, 0, {"loss": 0.9})
    clock.now = 2.0
    line.step(1, 4, {"loss": 0.25, "accuracy": 0.5})
    line.close()
    last = screen.getvalue().split("\r")[-1]
    # 14 steps of 100 rows in 2 s; 5 of 20 steps are left at 7 steps a second.
    for part in ("epoch 2/2", "step 5/10", "loss 0.25", "700 rows/s", "eta 0:01"):
        assert part in last, last


def test_progress_line_shows_the_phase_before_the_first_step() -> None:
    from rich.console import Console

    screen = io.StringIO()
    console = Console(force_terminal=True, file=screen, width=120, color_system=None)
    line = ProgressLine(epochs=1, steps_per_epoch=1, batch_size=1, console=console)
    line.phase("materialize")
    line.close()
    assert "materialize" in screen.getvalue()


@pytest.mark.parametrize(("verbose", "terminal"), [(0, True), (1, False)])
def test_quiet_without_a_terminal_or_with_verbose_0(
    verbose: int, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    assert progress_for(verbose, epochs=1, steps_per_epoch=1, batch_size=1) is None
    reporter = make(verbose=verbose)
    with reporter.phase("train"):
        reporter.step(0, 0, {"loss": 1.0})
    reporter.finish("FINISHED", {})
    assert screen.getvalue() == ""


def test_a_terminal_gets_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    reporter = make(verbose=1)
    with reporter.phase("train"):
        reporter.step(1, 9, {"loss": 1.0})
    reporter.finish("FINISHED", {})
    assert "epoch 2/2" in screen.getvalue()
