"""Series, shares, times and bytes of a report: all by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spark_dlobd.backends.shuffle.timers import Timers
from spark_dlobd.backends.shuffle.wire.events import Worked
from spark_dlobd.job.target import Target
from spark_dlobd.report.metrics import report_metrics
from spark_dlobd.report.schema import RankSeconds
from spark_dlobd.report.shares import fit_parts, rank_seconds, shares, training_parts
from spark_dlobd.report.timeline import accuracy_reached, metrics_over_time, seconds_to_target
from spark_dlobd.report.traffic import allreduce_bytes, wire_bytes
from spark_dlobd.training.gpu import visible
from spark_dlobd.training.series import Series

EPOCHS = {
    0: (10.0, {"accuracy": 0.75, "val_accuracy": 0.6}),
    1: (15.0, {"accuracy": 0.96, "val_accuracy": 0.92}),
}


def test_a_series_never_holds_more_than_it_may_and_keeps_means() -> None:
    series = Series(["seconds", "load"], most=4)
    for second in range(1000):
        series.add([float(second), 3.0 if second % 2 else 1.0])
    assert 2 <= len(series.points) <= 5
    first = series.points[0]
    assert first[1] == 2.0
    assert series.column("seconds") == sorted(series.column("seconds"))
    # 1000 seconds in points of 256: 0 to 255, ..., and what is left
    assert first[0] == 127.5


def test_a_series_that_is_not_full_changes_nothing() -> None:
    series = Series(["seconds"], most=4)
    for second in range(4):
        series.add([second])
    assert series.points == [[0], [1], [2], [3]]


def _epoch(seconds: float, waited: float, moved: float | None, waiting: float | None) -> dict:
    return {
        "seconds": seconds,
        "input": waited,
        "communication": moved,
        "waiting": waiting,
        "tracing": 0.0,
    }


def test_compute_is_what_is_left_of_the_steps() -> None:
    told = {1: {0: _epoch(10.0, 1.0, 2.0, 3.0), 1: _epoch(5.0, 1.0, 1.0, 0.5)}}
    assert rank_seconds(told) == [
        RankSeconds(rank=1, input=2.0, compute=6.5, communication=3.0, waiting=3.5)
    ]


def test_compute_is_not_known_where_communication_was_not_measured() -> None:
    (rank,) = rank_seconds({0: {0: _epoch(10.0, 1.0, None, None)}})
    assert rank["input"] == 1.0
    assert rank["compute"] is None and rank["communication"] is None


def test_parts_of_the_training_are_means_over_ranks_and_add_up() -> None:
    ranks = [
        RankSeconds(rank=0, input=1.0, compute=4.0, communication=1.0, waiting=2.0),
        RankSeconds(rank=1, input=1.0, compute=6.0, communication=1.0, waiting=0.0),
    ]
    parts = training_parts(ranks, training_seconds=10.0, spark_seconds=0.5, tracing=1.0)
    assert parts == {
        "input": 1.0,
        "compute": 5.0,
        "communication": 1.0,
        "waiting": 1.0,
        "spark": 0.5,
        "start_up": 1.0,
        "other": 0.5,
    }
    assert sum(shares(parts, 10.0).values()) == pytest.approx(1.0)  # type: ignore[arg-type]


def test_slower_ranks_than_the_first_leave_shares_that_add_up() -> None:
    ranks = [RankSeconds(rank=n, input=1.0, compute=s, communication=0.0, waiting=0.0)
             for n, s in enumerate((6.0, 8.0))]  # fmt: skip
    found = shares(training_parts(ranks, 7.0, 0.0, 0.5), 7.0)
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-3)  # type: ignore[arg-type]
    assert found["compute"] == pytest.approx(7 / 8.5, abs=1e-4)


def test_nothing_is_invented_without_ranks() -> None:
    parts = training_parts([], training_seconds=10.0, spark_seconds=0.0, tracing=0.0)
    assert set(parts.values()) == {None}
    assert fit_parts(parts, materialize=1.0, before_training=3.0, total=9.0) == {
        **parts,
        "spark": 1.0,
        "start_up": 2.0,
    }


def test_parts_of_a_fit_add_up_to_its_seconds() -> None:
    ranks = [RankSeconds(rank=0, input=1.0, compute=4.0, communication=0.0, waiting=0.0)]
    training = training_parts(ranks, 7.0, spark_seconds=0.5, tracing=1.5)
    parts = fit_parts(training, materialize=2.0, before_training=5.0, total=15.0)
    assert parts["spark"] == 2.5 and parts["start_up"] == 4.5
    assert parts["other"] == 3.0
    assert sum(parts.values()) == 15.0  # type: ignore[arg-type]


def test_metrics_over_time_and_accuracies_reached() -> None:
    over_time = metrics_over_time(EPOCHS)
    assert over_time["val_accuracy"] == [[0, 10.0, 0.6], [1, 15.0, 0.92]]
    assert accuracy_reached(over_time) == {
        "metric": "val_accuracy",
        "seconds": {"0.7": 15.0, "0.8": 15.0, "0.9": 15.0},
    }
    del over_time["val_accuracy"]
    assert accuracy_reached(over_time)["seconds"] == {
        "0.7": 10.0,
        "0.8": 15.0,
        "0.9": 15.0,
        "0.95": 15.0,
    }
    assert accuracy_reached({"loss": [[0, 1.0, 0.5]]}) == {"metric": None, "seconds": {}}


@pytest.mark.parametrize(
    ("target", "seconds"),
    [("accuracy >= 0.7", 10.0), ("val_accuracy > 0.9", 15.0), ("accuracy > 0.99", None)],
)
def test_seconds_to_the_target(target: str, seconds: float | None) -> None:
    assert seconds_to_target(metrics_over_time(EPOCHS), Target.parse(target)) == seconds
    assert seconds_to_target({}, Target.parse(target)) is None
    assert seconds_to_target(metrics_over_time(EPOCHS), None) is None


def test_bytes_of_an_allreduce() -> None:
    assert allreduce_bytes(400, workers=1) == 0.0
    assert allreduce_bytes(400, workers=2) == 400.0  # 2 * 400 / 2
    assert allreduce_bytes(400, workers=4) == 600.0  # 2 * 400 * 3 / 4
    assert allreduce_bytes(400, workers=4, steps_per_update=3) == 200.0
    assert wire_bytes(100, 400, None) == 400
    assert wire_bytes(100, 400, "bf16") == wire_bytes(100, 400, "fp16") == 200


def test_metrics_are_few_rounded_and_only_what_is_known() -> None:
    report = {
        "seconds": {"train": 3.0},
        "total_seconds": 4.00049,
        "epoch_seconds": [9.0, 1.0, 4.0],
        "rows_per_second": [10.0, 20.0, 30.0],
        "training_shares": {"input": 0.25, "compute": None},
        "seconds_to_target": None,
        "bytes_sent_per_step": 38440.0,
    }
    assert report_metrics(report) == {
        "system/fit/seconds": 4.0,
        "system/fit/seconds_per_epoch": 2.5,
        "system/fit/rows_per_second": 24.0,
        "system/fit/bytes_sent_per_step": 38440.0,
    }
    assert report_metrics({"bytes_sent_per_step": 0.0}) == {}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [(None, [0, 1, 2]), ("", []), ("1", [1]), ("2, 0", [2, 0]), ("0,7,1", [0]), ("-1", [])],
)
def test_gpus_that_cuda_sees(setting: str | None, expected: list[int]) -> None:
    assert visible(3, setting) == expected
    assert visible(3, "GPU-5f") == ["GPU-5f"]


def test_the_shuffle_backend_splits_its_ranks_seconds() -> None:
    timers = Timers()
    for rank, compute in ((0, 3.0), (1, 1.0)):
        seconds = {"get_weights": 0.5, "input": 0.25, "compute": compute}
        timers.take(Worked(rank, 0, 0, seconds))
    timers.take(Worked(1, 0, 0, {"update": 1.0}))
    timers.end_job(seconds=6.0, synchronizations=1)
    assert timers.report()["scheduling"] == 1.25  # 6 - 0.5 - 0.25 - 3 - 1
    assert timers.ranks() == [
        RankSeconds(rank=0, input=0.25, compute=3.0, communication=0.5, waiting=1.0),
        RankSeconds(rank=1, input=0.25, compute=2.0, communication=0.5, waiting=2.0),
    ]
    assert np.isclose(timers.report()["compute"], 3.0)
