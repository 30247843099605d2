from __future__ import annotations

import io
import logging
import math
import sys
import threading
import time
import types
from typing import Any

import pytest

from spark_dlobd.job.columns import ColumnSpec, TensorColumn
from spark_dlobd.job.dataset import DatasetRef, RowGroup
from spark_dlobd.tracking import progress
from spark_dlobd.tracking.base import Tracker
from spark_dlobd.tracking.progress import Activity, EpochLines, ProgressLine, epoch_line
from spark_dlobd.tracking.reporter import Reporter, status_of


class ListTracker(Tracker):
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
    reporter = Reporter(epochs=1, batch_size=1, verbose=0)
    reporter.warn("2 rows skipped")
    assert reporter.warnings == ["2 rows skipped"]
    line = test_warnings_are_logged_and_kept.__code__.co_firstlineno + 1
    assert caplog.messages == [f"{__file__}:{line}: 2 rows skipped"]


def test_finish_reaches_trackers_once() -> None:
    tracker = ListTracker()
    reporter = make(tracker)
    reporter.epoch(0, {"loss": 1.0})
    reporter.finish("FINISHED", {"a": 1}, model="m")
    reporter.finish("FAILED", {})
    assert tracker.calls[1:] == [("finish", "FINISHED", {"loss": [1.0]}, {"a": 1}, "m")]


def test_a_tracker_hears_of_the_dataset_if_it_wants() -> None:
    class WithDataset(ListTracker):
        def dataset(self, description: dict[str, Any]) -> None:
            self._note("dataset", description)

    columns = ColumnSpec.of(
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


def test_status_of_an_exception() -> None:
    assert status_of(None) == "FINISHED"
    assert status_of(ValueError()) == "FAILED"
    assert status_of(KeyboardInterrupt()) == "KILLED"


def activity(clock: Clock, epochs: int = 2, steps: int = 10, batch_size: int = 100) -> Activity:
    return Activity(epochs=epochs, steps_per_epoch=steps, batch_size=batch_size, clock=clock)


def drawn(clock: Clock, screen: io.StringIO, **settings: int) -> ProgressLine:
    from rich.console import Console

    console = Console(force_terminal=True, file=screen, width=120, color_system=None)
    return ProgressLine(activity(clock, **settings), console)


def last(screen: io.StringIO) -> str:
    return screen.getvalue().rstrip("\n").split("\r")[-1]


def test_progress_line_shows_epoch_step_loss_rate_and_eta() -> None:
    clock, screen = Clock(), io.StringIO()
    line = drawn(clock, screen)
    line.phase("train")
    line.step(0, 0, {"loss": 0.9})
    clock.now = 2.0
    line.step(1, 4, {"loss": 0.25, "accuracy": 0.5})
    line._live.refresh()
    # 14 steps of 100 rows in 2 s; 5 of 20 steps are left at 7 steps a second.
    for part in ("epoch 2/2", "step 5/10", "loss 0.25", "700 rows/s", "eta 0:01", "━━"):
        assert part in last(screen), last(screen)
    line.close()


def test_every_wait_has_its_seconds() -> None:
    clock = Clock()
    state = activity(clock)
    said = []

    def wait(seconds: int) -> None:
        clock.now += seconds
        said.append(state.words())

    state.phase("materialize")
    wait(3)
    state.phase("train")
    for text in ("import tensorflow", "build model"):
        state.doing(text)
        wait(4)
    state.doing("train epoch 0")
    wait(1)
    state.doing("train epoch 0 step 0")  # another rank: it is still the same wait
    wait(1)
    state.step(0, 9, {"loss": 0.5})
    state.doing("validate epoch 0")
    wait(2)
    state.step(1, 0, {"loss": 0.5})
    wait(60)
    state.epoch(1, {"loss": 0.25})
    wait(5)
    state.doing("validate epoch 1")
    wait(6)
    state.doing("collect")
    wait(7)
    state.phase("log")
    wait(8)
    assert said == [
        "materialize  3 s",
        "start workers: import tensorflow  4 s",
        "start workers: build model  4 s",
        "first step  1 s",
        "first step  2 s",
        "epoch 1/2  step 10/10  loss 0.5  validation  2 s",
        # 11 steps are seen 2 s after the 10th; the rate is that of steps alone
        "epoch 2/2  step 1/10  loss 0.5  50 rows/s  eta 0:18  no step for 60 s",
        "finish  5 s",
        "epoch 2/2: validation  6 s",
        "collect  7 s",
        "log  8 s",
    ]


def test_a_phase_within_another_gives_the_line_back() -> None:
    clock = Clock()
    reporter = make(clock=clock, verbose=2)
    assert reporter._progress is not None
    with reporter.phase("train"):
        with reporter.phase("collect"):
            assert reporter._progress.activity.words() == "collect  0 s"
        assert reporter._progress.activity.words() == "first step  0 s"


def test_the_line_moves_without_news() -> None:
    clock, screen = Clock(), io.StringIO()
    line = drawn(clock, screen)
    line.phase("materialize")
    assert "materialize  0 s" in screen.getvalue()
    clock.now = 3.0
    line._live.refresh()
    assert "materialize  3 s" in screen.getvalue()
    line.close()


def test_of_two_fits_at_the_same_time_one_has_the_line() -> None:
    screens = [io.StringIO(), io.StringIO(), io.StringIO()]
    lines = [drawn(Clock(), screen) for screen in screens]
    lines[0].phase("materialize")
    lines[1].phase("materialize")
    lines[1].close()
    lines[0].close()
    lines[2].phase("materialize")
    lines[2].close()
    assert [bool(screen.getvalue()) for screen in screens] == [True, False, True]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.5000"), (0.0, "0.0000e+00"), (2.5e-4, "2.5000e-04"), (-12.25, "-12.2500")],
)
def test_numbers_of_an_epoch_are_shown_as_keras_shows_them(value: float, shown: str) -> None:
    line = epoch_line(1, 3, 4, 2.0, {"loss": value})
    assert line == f"Epoch 2/3 - 4/4 - 2s - 500ms/step - loss: {shown}"


EPOCHS = [
    "Epoch 1/2 - 10/10 - 2s - 200ms/step - loss: 0.5000 - val_loss: 0.2500",
    "Epoch 2/2 - 10/10 - 1s - 100ms/step - loss: 0.1250",
]


@pytest.mark.parametrize("verbose", [0, 1, 2, "auto"])
def test_without_a_terminal_all_but_0_print_a_line_an_epoch_and_the_last_words(
    verbose: int | str, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    reporter = Reporter(epochs=2, steps_per_epoch=10, batch_size=1, verbose=verbose, clock=clock)
    clock.now = 7.0
    with reporter.phase("train"):
        clock.now = 9.0
        reporter.epoch(0, {"loss": 0.5, "val_loss": 0.25})
        clock.now = 10.0
        reporter.epoch(1, {"loss": 0.125})
    reporter.finish("FINISHED", {})
    reporter.say(["Trained.", "In MLflow."])
    printed = capsys.readouterr()
    assert printed.err == ""
    expected = [] if verbose == 0 else [*EPOCHS, "Trained. In MLflow."]
    assert printed.out.splitlines() == expected


def test_a_log_gets_signs_of_life_in_long_waits(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = EpochLines(activity(clock))
    lines.phase("train")
    for second in range(100):
        clock.now = float(second)
        lines.tick()
    lines.epoch(0, {"loss": 0.5})
    clock.now = 109.0
    lines.tick()
    assert capsys.readouterr().out.splitlines() == [
        "... first step  10 s",
        "... first step  30 s",
        "... first step  70 s",
        "Epoch 1/2 - 10/10 - 99s - 9900ms/step - loss: 0.5000",
        "... epoch 1/2  step 10/10  loss 0.5  no step for 10 s",
    ]


def test_a_wait_that_has_just_begun_is_no_sign_of_life(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = EpochLines(activity(clock))
    lines.phase("materialize")
    clock.now = 9.0
    lines.phase("start")
    for second in range(9, 16):
        clock.now = float(second)
        lines.tick()
    assert capsys.readouterr().out == "... start workers  5 s\n"


def test_a_notebook_gets_a_line_that_becomes_the_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            assert raw
            shown.append(data["text/plain"])

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Handle:
        assert raw and display_id
        shown.append(data["text/plain"])
        return Handle()

    ipython = types.ModuleType("IPython.display")
    ipython.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", ipython)
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    monkeypatch.setattr(progress, "_NOTEBOOK_INTERVAL_S", 0.01)
    clock = Clock()
    reporter = make(clock=clock, verbose="auto")
    with reporter.phase("materialize"):
        clock.now = 3.0
        deadline = time.monotonic() + 30
        while shown[-1] != "materialize  3 s" and time.monotonic() < deadline:
            time.sleep(0.01)
    reporter.finish("FINISHED", {})
    reporter.say(["Trained.", "In MLflow."])
    assert shown[0] == "materialize  0 s"
    assert shown[-3:] == ["materialize  3 s", "", "Trained.\nIn MLflow."]


def test_a_standard_output_that_fails_does_not_stop_the_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stdout", closed)
    reporter = make(verbose=2)
    reporter.epoch(0, {"loss": 0.5})
    reporter.epoch(1, {"loss": 0.25})
    assert reporter.history == {"loss": [0.5, 0.25]}
    assert caplog.messages == ["The line of an epoch could not be printed: no more of them."]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("verbose", [0, 2])
def test_no_live_line_with_0_or_2_in_a_terminal(
    verbose: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    reporter = make(verbose=verbose)
    with reporter.phase("train"):
        reporter.step(0, 0, {"loss": 1.0})
    reporter.finish("FINISHED", {})
    assert screen.getvalue() == ""


@pytest.mark.parametrize("verbose", [1, "auto"])
def test_a_terminal_gets_the_line_and_keeps_the_last_words(
    verbose: int | str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    reporter = make(verbose=verbose)
    with reporter.phase("train"):
        reporter.step(1, 8, {"loss": 1.0})
        reporter._progress._live.refresh()  # type: ignore[union-attr]
    reporter.finish("FINISHED", {})
    reporter.say(["Trained.", "In MLflow."])
    assert "epoch 2/2" in screen.getvalue()
    assert screen.getvalue().endswith("Trained.\nIn MLflow.\n")
    assert capsys.readouterr().out == ""


def test_the_line_stays_while_trackers_finish() -> None:
    class Slow(ListTracker):
        def finish(self, *args: Any) -> None:
            assert reporter._progress is not None
            said.append(reporter._progress.activity.words())

    said: list[str] = []
    reporter = make(Slow(), verbose=2)
    with pytest.raises(KeyError), reporter.phase("train"):
        raise KeyError
    reporter.finish("FAILED", {})
    assert said == ["log  0 s"]


def test_a_spinner_for_a_wait_outside_of_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, clock = Screen(), Clock()
    monkeypatch.setattr("sys.stderr", screen)
    with progress.waiting("starting Spark", clock):
        assert "starting Spark  0 s" in screen.getvalue()
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with progress.waiting("starting Spark"):
        pass
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_a_warning_names_the_line_that_began_the_fit(caplog: pytest.LogCaptureFixture) -> None:
    reporter = make()
    threading.Thread(target=reporter.warn, args=["2 rows skipped"]).start()
    deadline = time.monotonic() + 10
    while not caplog.messages and time.monotonic() < deadline:
        time.sleep(0.01)
    assert caplog.messages == [f"{reporter._users_line}: 2 rows skipped"]
    assert reporter._users_line.startswith(f"{__file__}:")
