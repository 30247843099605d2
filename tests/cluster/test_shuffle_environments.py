"""The shuffle backend wherever a Spark job runs; each environment is a program of its own."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cluster.shuffle_faults import Fault
from tests.cluster.standalone import StandaloneCluster
from tests.small_disk import small_disk

pytestmark = [pytest.mark.usefixtures("nothing_left"), pytest.mark.timeout(450)]
CURVE_TOLERANCE = 1e-5
LOCAL_CLUSTER = "local-cluster[2,1,1024]"


def run(folder: Path, scenario: str, **settings: Any) -> dict[str, Any]:
    """Run one scenario of the program and return its result."""
    folder.mkdir(exist_ok=True)
    given, result = folder / "settings.json", folder / "result.json"
    given.write_text(json.dumps(settings))
    program = [sys.executable, "-m", "tests.cluster.shuffle_environment", scenario]
    with (folder / "program.log").open("wb") as log:
        process = subprocess.Popen(
            [*program, str(given), str(result)],
            cwd=Path(__file__).parents[2],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=400)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert code == 0, (folder / "program.log").read_text()[-6000:]
    found: dict[str, Any] = json.loads(result.read_text())
    return found


@contextmanager
def events(folder: Path) -> Iterator[tuple[dict[str, str], list[dict[str, Any]]]]:
    """Configuration of an event log, and a list that holds it at the end."""
    logs = folder / "events"
    logs.mkdir()
    found: list[dict[str, Any]] = []
    yield (
        {
            "spark.eventLog.enabled": "true",
            "spark.eventLog.dir": f"file://{logs}",
            "spark.eventLog.compress": "false",
            "spark.eventLog.rolling.enabled": "false",
        },
        found,
    )
    (log,) = logs.iterdir()
    found += [json.loads(line) for line in log.read_text().splitlines()]


def assert_same_curves(result: dict[str, Any]) -> None:
    ours, reference = result["shuffle"], result["local"]
    assert ours["report"]["backend"] == "shuffle"
    assert ours["report"]["restarts"] == 0
    assert set(ours["history"]) == {"loss", "accuracy"}
    for name, values in reference["history"].items():
        np.testing.assert_allclose(ours["history"][name], values, rtol=CURVE_TOLERANCE)


def test_more_workers_than_slots_train_as_virtual_ones(tmp_path: Path) -> None:
    result = run(tmp_path, "curves", master=LOCAL_CLUSTER, workers=3)
    assert_same_curves(result)
    assert result["shuffle"]["report"]["slice_state"] == "host"
    assert len(result["shuffle"]["report"]["slices"]) == 3


def test_standalone_cluster_with_authentication_and_encryption(tmp_path: Path) -> None:
    secure = {
        "spark.authenticate": "true",
        "spark.authenticate.secret": secrets.token_hex(16),
        "spark.network.crypto.enabled": "true",
        "spark.io.encryption.enabled": "true",
    }
    with StandaloneCluster(tmp_path, secure) as cluster:
        result = run(
            tmp_path / "run",
            "curves",
            master=cluster.url,
            conf=secure,
            cache_dir=f"file://{tmp_path}",
        )
    assert_same_curves(result)
    # Spark encrypts its shuffle files, not files of our own
    assert result["shuffle"]["report"]["slice_state"] == "shuffle"


def test_dynamic_allocation(tmp_path: Path) -> None:
    conf = {
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.shuffleTracking.enabled": "true",
        "spark.dynamicAllocation.minExecutors": "0",
        "spark.dynamicAllocation.initialExecutors": "0",
        "spark.dynamicAllocation.executorIdleTimeout": "2s",
        "spark.dynamicAllocation.cachedExecutorIdleTimeout": "2s",
        "spark.dynamicAllocation.shuffleTracking.timeout": "2s",
        "spark.executor.cores": "1",
    }
    with StandaloneCluster(tmp_path) as cluster, events(tmp_path) as (logged, found):
        result = run(
            tmp_path / "run",
            "after_idling",
            master=cluster.url,
            conf={**conf, **logged},
            cache_dir=f"file://{tmp_path}",
            epochs=1,
        )
    assert_same_curves(result)
    assert [e for e in found if e["Event"] == "SparkListenerExecutorRemoved"]


def test_copies_of_slow_tasks_are_not_applied_twice(tmp_path: Path) -> None:
    """One task of the gradients is slow, and later one that updates a slice."""
    file = tmp_path / "happened"
    conf = {
        "spark.speculation": "true",
        "spark.speculation.quantile": "0.5",
        "spark.speculation.minTaskRuntime": "1s",
    }
    layer = Fault("sleep", rank=1, step=4, file=str(file))
    update = Fault("sleep", rank=0, step=6, file=f"{file}-too")
    # Spark starts no copy on the host of the original: it needs two
    hosts = ("127.0.0.1", "127.0.0.2")
    with (
        StandaloneCluster(tmp_path, hosts=hosts) as cluster,
        events(tmp_path) as (logged, found),
    ):
        result = run(
            tmp_path / "run",
            "disturbed",
            master=cluster.url,
            conf={**conf, **logged},
            cache_dir=f"file://{tmp_path}",
            # each copy that loses takes its Python worker with it, so steps are slow from then on
            epochs=1,
            layer=layer.config,
            update=update.config,
        )
    for happened in (file, Path(f"{file}-too")):
        assert len(happened.read_text().split()) == 1
    ends = [e for e in found if e["Event"] == "SparkListenerTaskEnd"]
    copies = [e for e in ends if e["Task Info"]["Speculative"]]
    assert len(copies) >= 2
    ours, reference = result["disturbed"], result["undisturbed"]
    assert ours["report"]["restarts"] == 0
    assert ours["history"] == reference["history"]
    assert ours["report"]["weights_hash"] == reference["report"]["weights_hash"]


@pytest.fixture(scope="module")
def many_fits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("many")
    return run(folder, "many_fits", master=LOCAL_CLUSTER, epochs=1)


def test_two_fits_at_the_same_time(many_fits: dict[str, Any]) -> None:
    hashes = [model for fold in many_fits["1"] for model in fold]
    assert len(set(hashes)) == 4
    assert many_fits["2"] == many_fits["1"]


def test_fits_leave_nothing_on_the_disks_of_executors(many_fits: dict[str, Any]) -> None:
    first, second, third = many_fits["after"]
    assert first["left"] == second["left"] == third["left"] == []
    assert third["bytes"] <= second["bytes"]


def test_full_disk(tmp_path: Path) -> None:
    config = {"iterations_per_job": 64}
    # 4 MB of weights, so 8 MB go through the shuffle in every step
    with small_disk(tmp_path / "disk", "24m") as folder:
        result = run(
            tmp_path / "run",
            "failing",
            master=LOCAL_CLUSTER,
            conf={"spark.local.dir": str(folder)},
            config=config,
            hidden=100_000,
        )
    assert result["error"] == "WorkerError"
    assert "No space left on device" in result["message"].splitlines()[0]
    assert result["seconds"] < 60
    assert result["left"] == []


def test_spark_ui_says_run_epoch_and_steps(tmp_path: Path) -> None:
    config = {"iterations_per_job": 5}
    with events(tmp_path) as (logged, found):
        run(tmp_path / "run", "plain", master="local[2]", conf=logged, config=config)
    ours: dict[str, list[int]] = {}
    for job in (event for event in found if event["Event"] == "SparkListenerJobStart"):
        text = job["Properties"].get("spark.job.description") or ""
        if text.startswith("spark-dlobd "):
            ours[text] = job["Stage IDs"]
    runs = {text.partition(":")[0] for text in ours}
    assert len(runs) == 1
    # 203 rows, 24 in a step: 9 steps an epoch
    assert [text.partition(": ")[2] for text in ours] == [
        "start workers",
        "epoch 1 of 2, steps 0 to 4",
        "epoch 1 of 2, steps 5 to 8",
        "epoch 2 of 2, steps 0 to 4",
        "epoch 2 of 2, steps 5 to 8",
        "release workers",
    ]
    stages = [event for event in found if event["Event"] == "SparkListenerStageCompleted"]
    names = {e["Stage Info"]["Stage ID"]: e["Stage Info"]["Stage Name"] for e in stages}
    second = next(ids for text, ids in ours.items() if "epoch 1 of 2, steps 5 to 8" in text)
    assert [names[number] for number in sorted(second)] == [
        f"{what} of step {step}" for step in range(5, 9) for what in ("gradients", "update")
    ]
