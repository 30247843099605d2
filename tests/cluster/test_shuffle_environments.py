"""The shuffle backend wherever a Spark job runs, in two programs of their own.

One has a small disk and trains again and again, the other a standalone cluster with all that
Spark offers at once: authentication, encryption, dynamic allocation and speculation.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cluster import faults
from tests.cluster.shuffle_faults import Fault
from tests.cluster.standalone import StandaloneCluster
from tests.small_disk import small_disk

pytestmark = pytest.mark.timeout(450)
CURVE_TOLERANCE = 1e-5


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
def nothing_stays() -> Iterator[None]:
    """As the fixture `nothing_left`, for a program that several tests look at."""
    before = faults.ours()
    yield
    left = faults.wait_until_gone(before, timeout_s=30.0)
    assert not left


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


def jobs_of_runs(found: list[dict[str, Any]]) -> dict[str, dict[str, list[int]]]:
    """Stages of our jobs by run and by what the UI says of the job, in order."""
    runs: dict[str, dict[str, list[int]]] = {}
    for job in (event for event in found if event["Event"] == "SparkListenerJobStart"):
        text = job["Properties"].get("spark.job.description") or ""
        if text.startswith("spark-dlobd "):
            run, _, said = text.partition(": ")
            runs.setdefault(run, {})[said] = job["Stage IDs"]
    return runs


def assert_same_curves(ours: dict[str, Any], reference: dict[str, Any]) -> None:
    assert ours["report"]["backend"] == "shuffle"
    assert ours["report"]["restarts"] == 0
    assert set(ours["history"]) == {"loss", "accuracy"}
    for name, values in reference["history"].items():
        np.testing.assert_allclose(ours["history"][name], values, rtol=CURVE_TOLERANCE)


@dataclass(frozen=True)
class Ended:
    """What a program found, its event log, and files with a line for each fault."""

    result: dict[str, Any]
    events: list[dict[str, Any]]
    happened: tuple[Path, ...] = ()


@pytest.fixture(scope="module")
def many_fits(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Fits on executors whose disk is small; the last one does not fit on it."""
    folder = tmp_path_factory.mktemp("many")
    with (
        nothing_stays(),
        small_disk(folder / "disk", "24m") as disk,
        events(folder) as (logged, found),
    ):
        conf = {"spark.local.dir": str(disk), **logged}
        result = run(folder / "run", "many_fits", master="local-cluster[2,1,1024]", conf=conf)
    return Ended(result, found)


def test_more_workers_than_slots_train_as_virtual_ones(many_fits: Ended) -> None:
    result = many_fits.result
    assert_same_curves(result["shuffle"], result["local"])
    assert result["shuffle"]["report"]["slice_state"] == "host"
    assert len(result["shuffle"]["report"]["slices"]) == 3


def test_spark_ui_says_run_epoch_and_steps(many_fits: Ended) -> None:
    found = many_fits.events
    ours = next(iter(jobs_of_runs(found).values()))
    # 203 rows, 24 in a step: 9 steps an epoch
    assert list(ours) == [
        "start workers",
        "epoch 1 of 2, steps 0 to 4",
        "epoch 1 of 2, steps 5 to 8",
        "epoch 2 of 2, steps 0 to 4",
        "epoch 2 of 2, steps 5 to 8",
        "release workers",
    ]
    stages = [event for event in found if event["Event"] == "SparkListenerStageCompleted"]
    names = {e["Stage Info"]["Stage ID"]: e["Stage Info"]["Stage Name"] for e in stages}
    second = ours["epoch 1 of 2, steps 5 to 8"]
    assert [names[number] for number in sorted(second)] == [
        f"{what} of step {step}" for step in range(5, 9) for what in ("gradients", "update")
    ]


def test_two_fits_at_the_same_time(many_fits: Ended) -> None:
    first, second = many_fits.result["1"], many_fits.result["2"]
    assert len(set(first)) == 2
    assert second == first


def test_fits_leave_nothing_on_the_disks_of_executors(many_fits: Ended) -> None:
    first, second, third = many_fits.result["after"]
    assert first["left"] == second["left"] == third["left"] == []
    assert third["bytes"] <= second["bytes"]


def test_full_disk(many_fits: Ended) -> None:
    failed = many_fits.result["failed"]
    assert failed["error"] == "WorkerError"
    assert "No space left on device" in failed["message"].splitlines()[0]
    assert failed["seconds"] < 60
    assert failed["left"] == []


@pytest.fixture(scope="module")
def all_at_once(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A fit on executors that come when it needs them; the same when they have gone, disturbed.

    One task of the gradients is slow, and later one that updates a slice.
    """
    folder = tmp_path_factory.mktemp("standalone")
    secure = {
        "spark.authenticate": "true",
        "spark.authenticate.secret": secrets.token_hex(16),
        "spark.network.crypto.enabled": "true",
        "spark.io.encryption.enabled": "true",
    }
    conf = {
        **secure,
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.shuffleTracking.enabled": "true",
        "spark.dynamicAllocation.minExecutors": "0",
        "spark.dynamicAllocation.initialExecutors": "0",
        # longer than a slow task sleeps: the other executor is to run its copy
        "spark.dynamicAllocation.executorIdleTimeout": "12s",
        "spark.dynamicAllocation.cachedExecutorIdleTimeout": "12s",
        "spark.dynamicAllocation.shuffleTracking.timeout": "12s",
        "spark.executor.cores": "1",
        "spark.speculation": "true",
        "spark.speculation.quantile": "0.5",
        "spark.speculation.minTaskRuntime": "3s",
    }
    happened = (folder / "layer", folder / "update")
    layer = Fault("sleep", rank=1, step=4, file=str(happened[0]))
    update = Fault("sleep", rank=0, step=6, file=str(happened[1]))
    # Spark starts no copy on the host of the original: it needs two
    hosts = ("127.0.0.1", "127.0.0.2")
    with (
        nothing_stays(),
        StandaloneCluster(folder, secure, hosts) as cluster,
        events(folder) as (logged, found),
    ):
        result = run(
            folder / "run",
            "after_idling",
            master=cluster.url,
            conf={**conf, **logged},
            cache_dir=f"file://{folder}",
            # each copy that loses takes its Python worker with it, so steps are slow from then on
            epochs=1,
            layer=layer.config,
            update=update.config,
        )
    return Ended(result, found, happened)


def test_standalone_cluster_with_authentication_and_encryption(all_at_once: Ended) -> None:
    undisturbed = all_at_once.result["undisturbed"]
    assert_same_curves(undisturbed, all_at_once.result["local"])
    # Spark encrypts its shuffle files, not files of our own
    assert undisturbed["report"]["slice_state"] == "shuffle"


def test_dynamic_allocation(all_at_once: Ended) -> None:
    names = [event["Event"] for event in all_at_once.events]
    removed = names.index("SparkListenerExecutorRemoved")
    # for both fits executors came
    for half in (names[:removed], names[removed:]):
        assert half.count("SparkListenerExecutorAdded") >= 2
    assert_same_curves(all_at_once.result["disturbed"], all_at_once.result["local"])


def test_copies_of_slow_tasks_are_not_applied_twice(all_at_once: Ended) -> None:
    for file in all_at_once.happened:
        assert len(file.read_text().split()) == 1
    ends = [e for e in all_at_once.events if e["Event"] == "SparkListenerTaskEnd"]
    copies = [e for e in ends if e["Task Info"]["Speculative"]]
    assert len(copies) >= 2
    ours, reference = all_at_once.result["disturbed"], all_at_once.result["undisturbed"]
    assert ours["report"]["restarts"] == 0
    assert ours["history"] == reference["history"]
    assert ours["report"]["weights_hash"] == reference["report"]["weights_hash"]
