"""A whole report and its page, from what a driver would have observed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spark_dlobd.job.target import Target
from spark_dlobd.report import words
from spark_dlobd.report.build import Settings, build_report
from spark_dlobd.report.facts import fact_rows, phase_rows
from spark_dlobd.report.look import svg
from spark_dlobd.report.observed import Observed
from spark_dlobd.report.page import report_page
from spark_dlobd.report.plots import curves_over_time, shares_bars
from spark_dlobd.report.schema import FitReport, Measurements

NETWORK = {"name": "lenet", "class": "Sequential", "layers": ["Dense 10"], "weights": 38440}
SETTINGS = Settings("horovod", "chosen by the user", 2, 64, 0, {"keras": "3.15"}, NETWORK)
PLAN = {"row_groups": 4, "rows": 400, "rows_per_rank": {"min": 199, "max": 201}, "shuffle": True}
TOLD: dict[str, Any] = {
    "rows": {"train": 400, "validation": 100},
    "transport": "gloo: tcp",
    "epoch_seconds": [4.0, 2.0],
    "epoch_rows": [400, 100],
    "bytes_sent_per_step": 38440.0,
    "plan": PLAN,
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
        "other": 0.0,
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
    assert "failed after 2.50 s" in page


def test_epochs_of_a_fit_that_failed_are_those_that_ranks_told() -> None:
    report = build_report(SETTINGS, {}, _observed(), {"prepare": 1.0}, [])
    assert report["epoch_seconds"] == [4.0, 2.0]
    assert report["rows_per_second"] == []


def test_the_page_shows_everything_and_loads_nothing() -> None:
    report = _report()
    report["warnings"].append("<script>alert(1)</script>")
    page = report_page(report)
    assert report["limit"]["text"].split("(")[0] in page
    # 2 metrics, 2 bars of shares, 4 quantities
    assert page.count("<svg") == 8
    for heading in ("Where the time went", "Metrics over time", "Utilization over time", "Facts"):
        assert f"<h2>{heading}</h2>" in page
    assert "<script>" not in page
    assert 'src="' not in page and "@import" not in page
    assert "width=device-width" in page


def test_the_head_says_what_was_trained_when_how_and_with_which_result() -> None:
    report = _report()
    report["started_at"] = "2026-11-26T14:05:59+00:00"
    head = report_page(report).split("<h2>")[0]
    assert "<h1>lenet (Sequential, 38,440 weights)</h1>" in head
    assert (
        "2026-11-26 14:05 UTC, backend horovod, 2 workers, 400 rows to train, 100 to validate, "
        "finished after 20.0 s" in head
    )
    assert "<b>0.95</b><span>accuracy</span>" in head
    assert "<b>0.05</b><span>loss</span>" in head
    assert "<b>20.0 s</b><span>seconds</span>" in head


def test_facts_have_units_and_no_brackets() -> None:
    rows = dict(fact_rows(_report()))
    assert rows["a worker sends in a step (computed)"] == "38.4 kB"
    plan = "4 row groups, 199 to 201 rows a worker, new order every epoch"
    assert rows["shard plan"] == plan
    assert rows["batch size over all workers"] == "64 rows"
    assert rows["time to the target"] == "17.0 s"
    assert not [value for value in rows.values() if "{" in value or "[" in value]


def test_phases_stand_in_the_order_in_which_they_happen() -> None:
    rows = phase_rows({"seconds": {"train": 3.0, "own": 1.0, "log": 0.5, "start": 2.25}})
    assert rows == [("start", "2.25 s"), ("train", "3.00 s"), ("log", "0.50 s"), ("own", "1.00 s")]


def test_a_plan_of_other_keys_is_told_as_it_is() -> None:
    assert words.plan_text({"cut_by": {"a_b": [1, 2]}, "even": True}) == "cut by a b 1, 2, even yes"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0, "0 s"), (9.994, "9.99 s"), (119.94, "119.9 s"), (125, "2 min 5 s"), (7260, "2 h 1 min")],
)
def test_durations_have_the_unit_that_fits(seconds: float, told: str) -> None:
    assert words.seconds_text(seconds) == told


def test_pictures_take_the_colour_of_the_text_around_them_and_change_nothing_else() -> None:
    drawn = [svg(figure) for figure in (*curves_over_time(_report()), *shares_bars(_report()))]
    assert len(drawn) == 4
    for picture in drawn:
        assert "currentColor" in picture and "#24292f" not in picture
        assert "<style" not in picture and "DejaVu" not in picture
        assert picture.startswith("<svg") and " width=" not in picture.split(">")[0]
        assert len(picture) < 15_000


def test_names_of_metrics_are_neither_mathematics_nor_html() -> None:
    over_time = {"$x_<b>": [[0, 1.0, 0.5]], "val_$x_<b>": [[0, 1.0, "NaN"]]}
    (figure,) = curves_over_time({"metrics_over_time": over_time})
    assert "$x_&lt;b&gt;" in svg(figure)


@pytest.mark.parametrize(("epochs", "folded"), [(20, 0), (21, 1)])
def test_many_epochs_are_folded(epochs: int, folded: int) -> None:
    report = _report()
    report["epoch_seconds"], report["rows_per_second"] = [1.0] * epochs, [400.0] * epochs
    assert report_page(report).count("<details>") == folded


def test_reports_of_earlier_versions_have_a_page() -> None:
    report: dict[str, Any] = dict(_report())
    for key in ("network", "started_at", "rows"):
        del report[key]
    assert "<h1>Fit</h1>" in report_page(report)


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
