from __future__ import annotations

import json
from typing import Any

import pytest

from spark_dlobd.characterize.results.checked import check_predictions, largest_error, predict_case
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.cost.advice import explain_choice, recommend
from spark_dlobd.cost.cluster import stage_summary
from spark_dlobd.cost.explanation import Explanation
from spark_dlobd.cost.model import Prediction, predict, way_of
from spark_dlobd.cost.step import step_summary
from spark_dlobd.errors import PersistenceError
from tests.unit.cost_numbers import cluster, step, work

WAYS: tuple[Any, ...] = (
    "local",
    "horovod",
    "shuffle",
    {"name": "shuffle", "sync_every": 10},
    "parameter_server",
)


def explanation(**changes: Any) -> Explanation:
    ways = [way_of(param) for param in WAYS]
    predictions = tuple(
        predict(way, workers, work(), cluster(), step())
        for way in ways
        if way is not None
        for workers in (1, 2)
    )
    best = recommend(predictions)
    values: dict[str, Any] = {
        "model": "lenet",
        "input_shapes": ((28, 28, 1),),
        "output_shapes": ((10,),),
        "weights": 10**6,
        "variables": 8,
        "row_counts": (12_800, 0),
        "work": work(),
        "backend": "horovod",
        "workers": 2,
        "memory_bytes_per_worker": 700 * 10**6,
        "predictions": predictions,
        "recommended": best,
        "why": explain_choice(best, predictions, {}, ("horovod", 2)),
        "refused": {},
        "cluster": cluster(),
        "step": step(),
    }
    return Explanation(**{**values, **changes})


def one(backend: str, workers: int, fit_s: float, label: str = "", fits: bool = True) -> Prediction:
    return Prediction(backend, label or backend, workers, 10, 0.1, 0.05, 1.5, 1, fit_s, 0.0, fits)


def test_it_survives_json() -> None:
    found = explanation()
    read = Explanation.from_json(json.loads(json.dumps(found.to_json())))
    assert read == found
    assert str(read) == str(found)
    older = found.to_json()
    older["input_shape"], older["output_shape"] = [28, 28, 1], [10]
    del older["input_shapes"], older["output_shapes"]
    assert Explanation.from_json(json.loads(json.dumps({**older, "schema": 1}))) == found
    with pytest.raises(PersistenceError, match=r"schema 2\. Got 3"):
        Explanation.from_json({**found.to_json(), "schema": 3})
    with pytest.raises(PersistenceError, match="cannot be read"):
        Explanation.from_json({"schema": 2})


def test_the_table_shows_every_prediction_and_the_facts() -> None:
    text = str(explanation())
    lines = text.splitlines()
    assert "lenet: 1,000,000 trainable weights in 8 variables, rows of (28, 28, 1) to (10,)" in text
    assert "2 slots on 1 hosts with 2 cores and 8.00 GB each" in text
    assert "about 700.0 MB of memory, 4.00 MB of gradients a step" in text
    row = next(line for line in lines if "horovod, gloo" in line and " 2 " in line)
    # 65 ms of computing and 9.2 ms of allreduce; 100 steps
    assert row.split()[-6:] == ["87.2", "8.72", "32.7", "4.00", "MB", "compute"]
    assert len([line for line in lines if line.startswith("> ")]) == 1
    assert max(map(len, lines)) <= 120


def test_what_cannot_run_is_marked() -> None:
    missing = explanation(refused={"horovod": "It is not installed."})
    assert str(missing).count("  refused") == 2
    crowded = explanation(predictions=(one("horovod", 4, 1.0, fits=False), one("local", 1, 2.0)))
    assert "needs 4 slots" in str(crowded)


def test_predictions_are_found_by_label_or_backend() -> None:
    found = explanation()
    every = found.prediction("shuffle", 2)
    assert every is not None and every.label == "shuffle"
    assert found.prediction("shuffle, every 10 steps", 2) is not None
    assert found.prediction("horovod", 3) is None


def test_what_only_a_person_can_choose_is_not_recommended_however_fast() -> None:
    able = [
        one("parameter_server", 2, 1.0),
        one("shuffle", 2, 2.0, "shuffle, every 10 steps"),
        one("horovod", 8, 2.5, fits=False),
        one("horovod", 2, 5.0),
        one("local", 1, 9.0),
    ]
    best = recommend(able)
    assert (best.backend, best.workers) == ("horovod", 2)
    assert recommend(able, ["horovod"]).backend == "local"
    said = explain_choice(best, able, {"shuffle": "Cannot be cut."}, ("local", 1))
    assert "parameter_server with 2 would take 1.0 s, but it trains in another way" in said
    assert "What the estimator asks for, local with 1: 9.0 s." in said
    assert said.endswith("shuffle is out: Cannot be cut.")


def test_ports_through_which_a_stranger_runs_code_are_not_recommended_however_fast() -> None:
    able = [
        one("collective", 2, 1.0, "collective, ring"),
        one("horovod", 2, 5.0),
        one("local", 1, 9.0),
    ]
    best = recommend(able)
    assert best.backend == "horovod"
    assert recommend([*able, one("collective", 2, 2.0, "collective, mpi")]).label.endswith("mpi")
    said = explain_choice(best, able, {}, ("local", 1))
    assert "collective, ring with 2 would take 1.0 s, but whoever reaches its ports can run" in said


def test_a_worker_has_to_save_a_tenth() -> None:
    assert recommend([one("horovod", 2, 9.5), one("local", 1, 10.0)]).workers == 1
    assert recommend([one("horovod", 2, 8.9), one("local", 1, 10.0)]).workers == 2
    few = [one("local", 1, 10.0), one("horovod", 2, 12.0)]
    said = explain_choice(recommend(few), few, {}, ("local", 1))
    assert "More workers do not pay: horovod with 2 would take 12.0 s." in said
    assert "Computing limits it: 67% of a step." in said


def test_seconds_of_jobs_become_costs() -> None:
    # a job of 0.1 s, stages of 30 ms; three stages move 4 MiB in 50 ms more each
    found = stage_summary(short=0.16, long=0.1 + 16 * 0.03, large=0.1 + 4 * 0.03 + 3 * 0.05)
    assert found["stage_s"] == pytest.approx(0.03)
    assert found["job_s"] == pytest.approx(0.1)
    assert found["stage_bytes_per_s"] == pytest.approx(4 * 2**20 / 0.05)


def test_the_slowest_worker_counts() -> None:
    each = {"ready_s": 3.0, "tracing_s": 1.0, "memory_bytes": 5, "local_size": 1}
    told = [
        {**each, "rank": 1, "seconds": 0.3, "memory_bytes": 9},
        {**each, "rank": 0, "seconds": 0.2, "alone_seconds": 0.1, "full_seconds": 0.18},
    ]
    found = step_summary(told, 64, 128, 0.05, {})
    assert (found.seconds, found.alone_seconds, found.full_seconds) == (0.3, 0.1, 0.18)
    assert (found.workers, found.workers_per_host, found.memory_bytes) == (2, 1, 9)


def record(epochs: list[float], **case: Any) -> CaseRecord:
    values = {"model": "lenet", "data": "mnist", "backend": "horovod", "transport": "gloo"}
    made = Case(**{**values, "workers": 2, **case})
    return CaseRecord(made, "finished", report={"epoch_seconds": epochs})


def test_errors_are_relative_to_the_mean_of_later_epochs() -> None:
    checked = check_predictions(explanation(), [record([20.0, 7.0, 8.72, 10.44])])
    assert [c.relative_error for c in checked] == [pytest.approx(0.0)]
    checked = check_predictions(explanation().to_json(), [record([17.44]), record([8.72])])
    assert checked[0].row["relative_error"] == -0.5
    assert checked[0].row["predicted_s"] == 8.72
    assert largest_error(checked) == pytest.approx(0.5)
    assert largest_error([]) == 0.0


def test_a_case_may_have_other_rows_batch_workers_and_transport() -> None:
    found = explanation()
    half = record([1.0], rows=6400).case
    assert predict_case(found, half) == pytest.approx(0.025 + 50 * 0.08695)
    shuffle = record([1.0], backend="shuffle", transport="spark").case
    expected = found.prediction("shuffle", 2)
    assert expected is not None and predict_case(found, shuffle) == expected.epoch_s
    small = record([1.0], batch_size=64).case
    # 200 steps of 32 rows: 36 ms, a quarter longer, 15 % for Horovod's threads, and 12.2 ms
    expected_s = 0.025 + 200 * (0.036 * 1.25 * 1.15 + 0.0122)
    assert predict_case(found, small) == pytest.approx(expected_s)


def test_what_was_not_measured_is_not_predicted() -> None:
    assert predict_case(explanation(), record([1.0], link_mbit=1000).case) is None
    alone = explanation(cluster=cluster(latency_s=None, bytes_per_s=None))
    assert predict_case(alone, record([1.0]).case) is None
    assert predict_case(alone, record([1.0], workers=1).case) is not None


def test_other_models_and_failed_cases_are_left_out() -> None:
    other = CaseRecord(
        record([1.0]).case, "finished", report={"epoch_seconds": [1], "trainable_weights": 7}
    )
    failed = CaseRecord(record([1.0]).case, "failed", error="x")
    assert check_predictions(explanation(), [other, failed]) == []
