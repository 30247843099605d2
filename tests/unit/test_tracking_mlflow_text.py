"""Names, descriptions and parameters of MLflow runs, and a sink that talks to a fake client."""

from __future__ import annotations

from typing import Any

import pytest

from spark_dlobd.tracking.mlflow.sink import MlflowSink, RunChoice
from spark_dlobd.tracking.mlflow.text import NOTE_TAG, description, param_texts, run_name

NETWORK = {"name": "le[n]et", "class": "Sequential", "weights": 38440, "layers": ["Dense 10"]}
REPORT: dict[str, Any] = {
    "backend": "local",
    "workers": 1,
    "network": NETWORK,
    "rows": {"train": 1437, "validation": 360},
    "total_seconds": 3.456,
    "epoch_seconds": [1.0, 1.0, 1.0],
    "metrics_over_time": {
        "loss": [[2, 3.0, 0.123456]],
        "accuracy": [[2, 3.0, 0.95]],
        "val_loss": [[2, 3.0, "NaN"]],
        "val_accuracy": [[2, 3.0, 0.963888]],
    },
    "limit": {"by": "start-up", "text": "Start-up <b> limits* this fit."},
}


def test_a_description_has_result_how_and_limit_and_no_markup_of_others() -> None:
    assert description(REPORT, "FINISHED").split("\n\n") == [
        "**val_accuracy 0.9639, accuracy 0.95, val_loss nan, loss 0.1235**; 3 epochs, "
        "finished after 3.46 s.",
        "le\\[n\\]et (Sequential, 38,440 weights), backend local, 1 worker, 1,437 rows to train, "
        "360 to validate.",
        "Start-up \\<b\\> limits\\* this fit.",
        "The whole report is `report.html` among the artifacts.",
    ]


def test_a_fit_that_failed_early_is_described_too() -> None:
    early = {**REPORT, "metrics_over_time": {}, "epoch_seconds": [], "network": {}, "rows": None}
    first, second, *_ = description(early, "FAILED").split("\n\n")
    assert first == "0 epochs, failed after 3.46 s."
    assert second == "backend local, 1 worker."


def test_interesting_parameters_come_first_and_those_without_value_not_at_all() -> None:
    params = {"seed": 0, "cacheDir": None, "epochs": 6, "backend": "local", "network": NETWORK}
    assert list(param_texts(params).items()) == [
        ("network.name", "le[n]et"),
        ("network.class", "Sequential"),
        ("network.weights", "38440"),
        ("network.layers", "Dense 10"),
        ("backend", "local"),
        ("epochs", "6"),
        ("seed", "0"),
    ]


def test_a_name_has_only_what_is_known() -> None:
    assert run_name({}, {"backend": "local"}, 0.0).startswith("local, 19")
    named = run_name({"network": NETWORK, "numTrainWorkers": 1}, {}, 0.0)
    assert named.startswith("le[n]et, 1 worker, 19")


class Info:
    run_name = "net, local, 19"
    run_id = "r1"
    experiment_id = "0"


class FakeClient:
    """Holds one run and notes what is changed."""

    def __init__(self, name: str, tags: dict[str, str]) -> None:
        self.info = Info()
        self.info.run_name = name
        self.data = type("Data", (), {"tags": tags, "params": {}})
        self.names: list[str] = []

    def get_run(self, run_id: str) -> FakeClient:
        return self

    def set_tag(self, run_id: str, name: str, value: str) -> None:
        self.data.tags[name] = value  # type: ignore[attr-defined]


def sink(client: FakeClient) -> MlflowSink:
    made = MlflowSink(RunChoice(), 1.0, run_id="r1")
    made._client_made = client  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("tags", [{}, {NOTE_TAG: "my words"}])
def test_a_description_is_only_set_where_there_is_none(tags: dict[str, str]) -> None:
    client = FakeClient("ours", dict(tags))
    sink(client)._describe("result and limit")
    expected = tags.get(NOTE_TAG, "result and limit")
    assert client.data.tags[NOTE_TAG] == expected  # type: ignore[attr-defined]
