"""A tracking server that is dead, silent, failing or back again costs seconds at most."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from spark_dlobd.errors import ConfigurationError
from spark_dlobd.tracking import MlflowTracker, Reporter
from spark_dlobd.tracking.delivery import BUNCH_RECORDS, Delivery, Limits, describe
from spark_dlobd.tracking.jsonl import Record, Spool
from spark_dlobd.tracking.mlflow.sink import as_metrics, as_params

STEPS = 20


@pytest.fixture(scope="module", autouse=True)
def import_mlflow_first() -> None:
    """The import takes seconds; the bounds below are about servers."""
    pytest.importorskip("mlflow")


def fit(tracker: MlflowTracker) -> float:
    """Tell a short fit; return the seconds the trainer lost."""
    told = Reporter(epochs=1, steps_per_epoch=STEPS, batch_size=1, trackers=[tracker], verbose=0)
    began = time.monotonic()
    told.start({"batchSize": 1}, {"spark_dlobd.run_id": "fit1"})
    for step in range(STEPS):
        told.step(0, step, {"loss": float(step)})
    told.epoch(0, {"loss": 9.5})
    training = time.monotonic() - began
    assert training < 1.0, "telling must not wait for the server"
    told.finish("FINISHED", {"seconds": {"train": 1.0}})
    return time.monotonic() - began


def check_kept(path: Path | None, folder: Path) -> None:
    assert path == folder / "spark_dlobd-metrics-fit1.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["kind"] for record in records] == [
        "start", *["step"] * STEPS, "epoch", "report"
    ]  # fmt: skip
    assert [record["metrics"]["loss"] for record in records[1:-2]] == list(range(STEPS))
    assert records[-1]["history"] == {"loss": [9.5]}


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def http_server(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    """Answers every request as ``request.param(handler)`` does; lists the paths."""
    paths: list[str] = []
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            paths.append(self.path)
            request.param(self, stopped)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", paths
    stopped.set()
    server.shutdown()
    server.server_close()
    thread.join(10)


def error_500(handler: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
    handler.send_error(500)


def answer_late(handler: BaseHTTPRequestHandler, stopped: threading.Event) -> None:
    stopped.wait(60)


def test_refused_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = MlflowTracker("http://ann:s3cret@127.0.0.1:9", fallback_dir=tmp_path)
    assert fit(tracker) < 5
    check_kept(tracker.kept_file, tmp_path)
    assert "MLflow at http://127.0.0.1:9 did not take everything" in caplog.text
    assert "Connection refused" in caplog.text
    assert str(tracker.kept_file) in caplog.text
    assert "s3cret" not in caplog.text
    assert tracker.run_id is None


def test_silent_server(silent_server: str, tmp_path: Path) -> None:
    tracker = MlflowTracker(silent_server, timeout_s=1.0, fallback_dir=tmp_path)
    assert fit(tracker) < 6
    check_kept(tracker.kept_file, tmp_path)


def test_silent_server_is_left_at_the_overall_limit(
    silent_server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MlflowTracker(
        silent_server, timeout_s=60.0, close_timeout_s=1.0, fallback_dir=tmp_path
    )
    assert fit(tracker) < 3
    check_kept(tracker.kept_file, tmp_path)
    assert "no answer within the time a fit may wait" in caplog.text


@pytest.mark.parametrize("http_server", [answer_late], indirect=True)
def test_server_that_answers_after_a_minute(
    http_server: tuple[str, list[str]], tmp_path: Path
) -> None:
    tracker = MlflowTracker(http_server[0], timeout_s=1.0, fallback_dir=tmp_path)
    assert fit(tracker) < 6
    check_kept(tracker.kept_file, tmp_path)


@pytest.mark.parametrize("http_server", [error_500], indirect=True)
def test_failing_server(
    http_server: tuple[str, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, paths = http_server
    tracker = MlflowTracker(url, fallback_dir=tmp_path)
    assert fit(tracker) < 5
    check_kept(tracker.kept_file, tmp_path)
    assert "500" in caplog.text
    assert 1 <= len(paths) <= 4


def test_default_budget_is_seconds() -> None:
    limits = MlflowTracker().settings.limits
    assert (MlflowTracker().settings.timeout_s, limits.close_timeout_s) == (5.0, 20.0)


def test_limits_must_be_positive() -> None:
    with pytest.raises(
        ConfigurationError, match=r"timeout_s must be a number of seconds above 0. Got 0"
    ):
        MlflowTracker(timeout_s=0)


def test_finish_without_start_does_nothing() -> None:
    MlflowTracker().new().finish("FINISHED", {}, {}, None)


class FakeSink:
    """A server that can be switched off."""

    target = "fake"

    def __init__(self, up: bool = True) -> None:
        self.up = up
        self.tries = 0
        self.bunches: list[int] = []
        self.got: list[Record] = []
        self.tried = threading.Event()
        self.ended: list[Any] = []
        self.upload_error: Exception | None = None

    def send(self, records: list[Record]) -> None:
        self.tries += 1
        self.tried.set()
        if not self.up:
            raise ConnectionError("down")
        self.bunches.append(len(records))
        self.got += records

    def upload(self, model: Any | None) -> None:
        if self.upload_error is not None:
            raise self.upload_error
        self.ended.append(model)

    def close(self, status: str) -> None:
        self.ended.append(status)


@pytest.fixture
def spool() -> Iterator[Spool]:
    spool = Spool()
    yield spool
    spool.discard()


def test_records_arrive_once_and_in_bounded_bunches(spool: Spool) -> None:
    sink = FakeSink()
    for number in range(2 * BUNCH_RECORDS + 1):
        spool.append({"n": number})
    delivery = Delivery(spool, sink, Limits())
    delivery.start()
    assert delivery.finish("FINISHED", "model") is None
    assert sink.bunches == [BUNCH_RECORDS, BUNCH_RECORDS, 1]
    assert [record["n"] for record in sink.got] == list(range(2 * BUNCH_RECORDS + 1))
    assert sink.ended == ["model", "FINISHED"]


def test_server_that_comes_back_gets_everything(spool: Spool) -> None:
    sink = FakeSink(up=False)
    delivery = Delivery(spool, sink, Limits(retry_s=0.01))
    delivery.start()
    spool.append({"n": 0})
    assert sink.tried.wait(10)
    sink.up = True
    spool.append({"n": 1})
    assert delivery.finish("FINISHED", None) is None
    assert [record["n"] for record in sink.got] == [0, 1]


def test_breaker_warns_once_and_pauses_longer_and_longer(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    sink = FakeSink(up=False)
    delivery = Delivery(spool, sink, Limits(retry_s=2.0), clock=lambda: now[0])
    spool.append({"n": 0})
    pauses = []
    with caplog.at_level(logging.WARNING):
        for _ in range(7):
            assert delivery._attempt() is False
            pauses.append(delivery._pause())
    assert pauses == [2, 4, 8, 16, 32, 60, 60]
    (message,) = caplog.messages
    assert message.startswith("fake does not take metrics (ConnectionError: down)")
    assert str(spool.path) in message


def test_failed_upload_still_ends_the_run(spool: Spool) -> None:
    sink = FakeSink()
    sink.upload_error = OSError("model is too large")
    delivery = Delivery(spool, sink, Limits())
    delivery.start()
    assert delivery.finish("FINISHED", "model") == "OSError: model is too large"
    assert sink.ended == ["FINISHED"]


def test_the_thread_ends_with_the_delivery(spool: Spool) -> None:
    delivery = Delivery(spool, FakeSink(up=False), Limits(retry_s=0.01))
    delivery.start()
    spool.append({"n": 0})
    assert delivery.finish("FAILED", None) == "ConnectionError: down"
    delivery._thread.join(5)
    assert not delivery._thread.is_alive()


def test_errors_are_one_line_without_credentials() -> None:
    text = "API request to http://u:p@host/api failed\nwith a long tail"
    assert describe(ValueError(text)) == "ValueError: API request to http://host/api failed"


def test_names_of_metrics_and_limits_of_params() -> None:
    step = {"kind": "step", "time": 1.5, "epoch": 1, "global_step": 7, "metrics": {"loss": "NaN"}}
    (metric,) = as_metrics(step)
    assert (metric.key, metric.step, metric.timestamp) == ("step_loss", 7, 1500)
    assert metric.value != metric.value
    epoch = {"kind": "epoch", "time": 1.5, "epoch": 1, "metrics": {"val:loss%": 0.5}}
    (metric,) = as_metrics(epoch)
    assert (metric.key, metric.step, metric.value) == ("val_loss_", 1, 0.5)
    assert as_params({"a?": "x" * 6001, "b": [1], "n" * 300: 2, "none": None}) == {
        "a_": "x" * 6000,
        "b": "[1]",
        "n" * 250: "2",
    }
