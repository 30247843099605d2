from __future__ import annotations

import io

from rich.console import Console

from spark_dlobd.tracking.base import Tracker
from spark_dlobd.tracking.progress import Activity, ProgressLine
from spark_dlobd.tracking.reporter import Reporter


def test_global_steps_follow_the_number_of_steps_told_later() -> None:
    seen: list[int] = []

    class Recorder(Tracker):
        def step(self, epoch: int, step: int, global_step: int, metrics: dict[str, float]) -> None:
            seen.append(global_step)

    reporter = Reporter(epochs=2, batch_size=4, trackers=[Recorder()], verbose=0)
    reporter.expect(10)
    reporter.step(1, 3, {"loss": 1.0})
    assert seen == [13]


def test_progress_line_shows_the_expected_number_of_steps() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    line = ProgressLine(Activity(epochs=1, steps_per_epoch=1, batch_size=4), console)
    line.phase("train")
    line.expect(7)
    line.step(0, 2, {"loss": 0.5})
    line._live.refresh()
    line.close()
    assert "step 3/7" in console.file.getvalue()  # type: ignore[attr-defined]
