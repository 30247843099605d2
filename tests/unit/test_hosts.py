from __future__ import annotations

import shutil

import pytest

from spark_dlobd.characterize.run import hosts
from spark_dlobd.characterize.run.hosts import EmulatedHosts
from spark_dlobd.errors import ConfigurationError, MissingDependencyError, ResourceError


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(hosts, "_free_subnet", lambda: "10.77.60")
    monkeypatch.setattr(shutil, "which", lambda program: f"/bin/{program}")


def test_only_root_can_emulate_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ResourceError, match="need root"):
        EmulatedHosts(2)


def test_missing_programs_are_named(as_root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "tc" else program)
    with pytest.raises(MissingDependencyError, match=r"need tc\. On Debian: apt-get"):
        EmulatedHosts(2)


@pytest.mark.parametrize("rate", ["fast", "1", "1 gbit", "-1gbit", "gbit"])
def test_rate_is_a_number_with_a_unit(as_root: None, rate: str) -> None:
    with pytest.raises(ConfigurationError, match="rate must be a number with kbit"):
        EmulatedHosts(2, rate=rate)


@pytest.mark.parametrize("count", [0, 201])
def test_count_is_limited(as_root: None, count: int) -> None:
    with pytest.raises(ConfigurationError, match=r"count must be an int from 1 to 200"):
        EmulatedHosts(count)


def test_each_host_has_an_address_and_a_slot(as_root: None) -> None:
    emulated = EmulatedHosts(3, rate="1.5gbit")
    assert [host.address for host in emulated.hosts] == [
        "10.77.60.11",
        "10.77.60.12",
        "10.77.60.13",
    ]
    conf = emulated.spark_conf()
    assert conf["spark.driver.host"] == "10.77.60.1"
    assert conf["spark.cores.max"] == conf["spark.executor.instances"] == "3"
