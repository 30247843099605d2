"""A whole report and its page, from what a driver would have observed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spark_dlobd.report.build import Settings, build_report
from spark_dlobd.report.observed import Observed
from spark_dlobd.report.page import report_page
from spark_dlobd.report.schema import FitReport, Measurements
from spark_dlobd.training.target import Target

SETTINGS = Settings("horovod", "chosen by the user", 2, 64, 0, {"keras": "3.15"})
TOLD: dict[str, Any] = {
    "transport": "gloo: tcp",
    "epoch_seconds": [4.0, 2.0],
    "epoch_rows": [400, 100],
    "bytes_sent_per_step": 400.0,
    "plan": {"rows": 400},
}


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def _observed() -> Observed:
    clock = Clock()
    observed = Observed(100.0, clock)
    clock.now = 110.0
    observed.worker_phase("build model")
    observed.worker_phase("train epoch 0")
    for epoch, (now, loss) in enumerate([(114.0, 0.5), (117.0, 0.05)]):
        clock.now = now
        observed.epoch(epoch, {"loss": loss, "accuracy": 1 - loss})
        observed.worker_phase(f"train epoch {epoch + 1}")
        for rank in (0, 1):
            times = {
                "epoch": epoch,
                "seconds": 4.0 - 2.0 * epoch,
                "input": 0.5,
                "communication": 0.5,
                "waiting": 0.25,
                "tracing": 0.0 if epoch else 1.0,
            }
            fields = ["time", "cpu_percent", "rss_bytes", "sent_bytes_per_s"]
            begin = observed._wall_began
            points = [[begin + 10 + 4 * epoch, 90.0, 2.0**20, 1e6]]
            sampled = {"fields": [*fields, "received_bytes_per_s"], "points": []}
            sampled["points"] = [[*point, 2e6] for point in points]
            observed.measured(rank, {"times": times, "utilization": sampled})
    clock.now = 118.0
    observed.worker_phase("collect")
    clock.now = 120.0
    return observed


def _report(target: str | None = "accuracy >= 0.9") -> FitReport:
    seconds = {"prepare": 1.0, "materialize": 4.0, "train": 15.0}
    wanted = None if target is None else Target.parse(target)
    return build_report(SETTINGS, TOLD, _observed(), seconds, ["slow disk"], wanted)


def test_a_report_is_derived_from_what_was_observed() -> None:
    report = _report()
    assert report["total_seconds"] == 20.0
    assert report["seconds"] == {
        "prepare": 1.0,
        "materialize": 4.0,
        "start": 5.0,
        "train": 8.0,
        "collect": 2.0,
    }
    assert report["metrics_over_time"]["loss"] == [[0, 14.0, 0.5], [1, 17.0, 0.05]]
    assert report["seconds_to_target"] == 17.0
    assert report["target"] == "accuracy >= 0.9"
    assert report["rows_per_second"] == [100.0, 50.0]
    # of 6 s: 1 input, 1 moving, 0.5 waiting, 1 tracing
    assert report["training_shares"] == {
        "input": 0.1667,
        "compute": 0.4167,
        "communication": 0.1667,
        "waiting": 0.0833,
        "spark": 0.0,
        "start_up": 0.1667,
        "other": 0.0,
    }
    # of 20 s: 4 writing rows; 10 before the first step, without them, and 1 tracing
    assert report["shares"]["spark"] == 0.2
    assert report["shares"]["start_up"] == 0.35
    assert sum(report["shares"].values()) == pytest.approx(1.0, abs=1e-3)  # type: ignore[arg-type]
    assert report["limit"]["by"] == "start-up"
    assert report["warnings"] == ["slow disk"]
    assert report["utilization"][1]["seconds"] == [10.0, 14.0]
    assert report["utilization"][1]["cpu_percent"] == [90.0, 90.0]
    assert report["transport"] == "gloo: tcp"


def test_the_report_is_json_and_has_every_key_of_the_schema() -> None:
    report = _report()
    assert json.loads(json.dumps(report)) == report
    assert set(Measurements.__annotations__) <= set(report)
    assert set(report) <= set(FitReport.__annotations__)


def test_a_fit_that_failed_early_has_a_report_too() -> None:
    observed = Observed(0.0, lambda: 2.5)
    report = build_report(SETTINGS, {}, observed, {"prepare": 1.0}, [])
    assert set(report) == set(Measurements.__annotations__)
    assert report["epoch_seconds"] == [] and report["seconds_to_target"] is None
    assert set(report["training_shares"].values()) == {None}
    page = report_page(report, "FAILED")
    assert "failed after 2.5 s" in page


def test_epochs_of_a_fit_that_failed_are_those_that_ranks_told() -> None:
    report = build_report(SETTINGS, {}, _observed(), {"prepare": 1.0}, [])
    assert report["epoch_seconds"] == [4.0, 2.0]
    assert report["rows_per_second"] == []


def test_the_page_shows_everything_and_loads_nothing() -> None:
    report = _report()
    report["warnings"].append("<script>alert(1)</script>")
    page = report_page(report)
    assert report["limit"]["text"].split("(")[0] in page
    assert page.count("<svg") == 3
    for heading in ("Where the time went", "Metrics over time", "Utilization over time", "Facts"):
        assert f"<h2>{heading}</h2>" in page
    assert "<script>" not in page
    assert 'src="' not in page and "@import" not in page
    assert "width=device-width" in page


def test_what_could_not_be_measured_is_a_warning_once() -> None:
    observed = _observed()
    for rank in (0, 1):
        observed.measured(rank, {"problem": "no clock"})
    report = build_report(SETTINGS, TOLD, observed, {}, [])
    assert report["warnings"] == ["no clock"]


def test_epochs_told_again_replace_those_that_followed() -> None:
    observed = _observed()
    observed.epoch(0, {"loss": 0.7})
    assert list(observed.epochs) == [0]
