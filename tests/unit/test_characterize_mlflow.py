from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from spark_dlobd.characterize.run.mlflow_runs import MlflowRuns, case_metrics, case_records
from spark_dlobd.characterize.run.output import OutputFolder
from spark_dlobd.characterize.run.sweep_tracking import tracking_uri
from tests.unit.characterize_records import failed, made


def test_what_a_result_becomes() -> None:
    record = made("gloo", 2, 2.0)
    start, *epochs, report = case_records(record)
    assert start["params"]["transport"] == "gloo"
    assert start["params"]["backend_options"]["controller"] == "gloo"
    assert start["tags"]["machine.cpu"] == "Example CPU"
    # 5 s of start-up, then 2 s an epoch, on the clock of the case
    assert [epoch["time"] - 1_700_000_000.0 for epoch in epochs] == [7.0, 9.0, 11.0]
    assert [epoch["metrics"] for epoch in epochs] == [
        {"accuracy": 0.5}, {"accuracy": 0.7}, {"accuracy": 0.9},
    ]  # fmt: skip
    assert report["history"] == {"accuracy": [0.5, 0.7, 0.9]}
    assert case_metrics(record) == {
        "test_accuracy": 0.9, "test_seconds": 1.0, "end_to_end_seconds": 12.0,
    }  # fmt: skip
    assert case_metrics(failed(record)) == {}


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OutputFolder:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    return OutputFolder(tmp_path / "out")


def test_a_resumed_sweep_goes_on_in_its_run(output: OutputFolder) -> None:
    from mlflow import MlflowClient

    uri = tracking_uri(None, output.path)
    good, bad = made("gloo", 1, 2.0), replace(failed(made("spark", 1, 2.0)), started=1.0)
    first = MlflowRuns("mine", output, uri)
    first.open([])
    first.add(bad)
    first.close("KILLED")

    again = MlflowRuns("mine", output, uri)
    # the first is there already, the second could not be delivered, the third ran again
    again.open([bad, good, replace(bad, started=2.0)])
    output.results.append(good)
    output.page.write_text("page")
    output.table.write_text("table")
    again.add_outputs()
    again.close("FINISHED")

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("spark-dlobd characterize")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["start_time"])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert [(run.info.run_name, run.info.status) for run in parents] == [("mine", "FINISHED")]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert [(run.info.run_name, run.info.status) for run in children] == [
        (bad.case.id, "FAILED"), (good.case.id, "FINISHED"), (bad.case.id, "FAILED"),
    ]  # fmt: skip
    assert children[1].data.metrics["test_accuracy"] == 0.9
    artifacts = {item.path for item in client.list_artifacts(parents[0].info.run_id)}
    assert artifacts == {"index.html", "results.md", "results.jsonl"}
    assert (output.path / "mlartifacts").is_dir()
    assert [path.name for path in output.path.parent.iterdir()] == ["out"]
