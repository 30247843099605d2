"""What is remembered of an application; the probe itself is tested with Spark."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from spark_dlobd.cost import cluster
from spark_dlobd.errors import TrainingError
from spark_dlobd.spark import SparkSlots
from tests.unit.cost_numbers import cluster as measured


class Probe:
    """Counts, and finds what it is told to find."""

    def __init__(self) -> None:
        self.calls = 0
        self.found: Any = measured()

    def __call__(self, *_: Any) -> Any:
        self.calls += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    made = Probe()
    monkeypatch.setattr(cluster, "_measured", made)
    monkeypatch.setattr(cluster, "_known", type(cluster._known)())
    return made


def application(name: str) -> Any:
    return SimpleNamespace(sparkContext=SimpleNamespace(applicationId=name))


def test_each_application_is_probed_once(probe: Probe) -> None:
    for name in ("a", "a", "b", "a"):
        assert cluster.probe_cluster(application(name), 2) == measured()
    assert probe.calls == 2


def test_after_a_failure_it_is_tried_again(probe: Probe) -> None:
    probe.found = TrainingError("busy")
    with pytest.raises(TrainingError, match="busy"):
        cluster.probe_cluster(application("a"), 2)
    probe.found = measured()
    for _ in range(2):
        assert cluster.probe_cluster(application("a"), 2) == measured()
    assert probe.calls == 2


def test_one_task_alone_has_seen_no_network(probe: Probe) -> None:
    probe.found = measured(workers=1, latency_s=None, bytes_per_s=None)
    cluster.probe_cluster(application("a"), 1)
    cluster.probe_cluster(application("a"), 1)
    assert probe.calls == 1
    probe.found = measured()
    assert cluster.probe_cluster(application("a"), 2).workers == 2
    assert cluster.probe_cluster(application("a"), 1).workers == 2
    assert probe.calls == 2


def test_the_slowest_link_and_the_smallest_machine_count() -> None:
    each = {"address": "10.0.0.1", "exchange_bytes": 2_000_000, "copy_bytes_per_s": 4e9}
    told = [
        {**each, "latency_s": 1e-4, "exchange_s": 0.0021, "cores": 4, "memory_bytes": 8},
        {**each, "latency_s": 2e-4, "exchange_s": 0.0042, "cores": 2, "memory_bytes": 16},
    ]
    told[1]["address"] = "10.0.0.2"
    stages = {"stage_s": 0.03, "stage_bytes_per_s": 9e9, "job_s": 0.1}
    found = cluster._summary(SparkSlots("spark://m", 6, 1, 0, False), 1, told, stages, {})
    assert (found.hosts, found.cores_per_host, found.memory_bytes_per_host) == (2, 2, 8)
    assert found.latency_s == 2e-4
    assert found.bytes_per_s == pytest.approx(2_000_000 / 0.004)
    # no stage is faster than memory
    assert found.stage_bytes_per_s == 4e9
    assert [found.workers_per_host(n) for n in (1, 2, 3, 6, 20)] == [1, 1, 2, 3, 3]
