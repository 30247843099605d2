"""What workers find when they compare their packages with the driver's."""

from __future__ import annotations

import socket

import pytest

from spark_dlobd.errors import WorkersDisagreeError
from spark_dlobd.processes import versions as module
from spark_dlobd.processes.versions import check_versions, driver_versions, versions

DRIVER = {"numpy": "1.26.4", "keras": "3.11.3", "petastorm": "0.13.1"}


def here(monkeypatch: pytest.MonkeyPatch, **found: str) -> None:
    """Let a worker have these, and else what the driver has."""
    monkeypatch.setattr(module, "_version", (DRIVER | found).__getitem__)


def test_only_what_is_read_through_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch)
    assert driver_versions("petastorm") == DRIVER
    assert set(driver_versions("pyarrow")) == {"numpy", "keras"}


@pytest.mark.parametrize("found", [{}, {"numpy": "1.26.1"}, {"petastorm": "0.12.1"}])
def test_what_is_near_enough(monkeypatch: pytest.MonkeyPatch, found: dict[str, str]) -> None:
    here(monkeypatch, **found)
    check_versions(DRIVER)


@pytest.mark.parametrize(
    ("name", "found", "advice"),
    [
        ("numpy", "2.4.6", "same environment; spark-dlobd doctor"),
        ("keras", "3.12.0", "same environment; spark-dlobd doctor"),
        ("petastorm", "not installed", "or set reader='pyarrow'"),
    ],
)
def test_another_package_is_named_with_its_host(
    monkeypatch: pytest.MonkeyPatch, name: str, found: str, advice: str
) -> None:
    here(monkeypatch, **{name: found})
    with pytest.raises(WorkersDisagreeError) as caught:
        check_versions(DRIVER)
    text = str(caught.value)
    assert text.startswith(
        f"{name} is {found} on {socket.gethostname()}, the driver has {DRIVER[name]}. "
    )
    assert advice in text


def test_a_worker_without_mpi_hears_what_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, mpi4py="4.1.2")
    driver = driver_versions("pyarrow", "mpi4py")
    assert driver == {"numpy": DRIVER["numpy"], "keras": DRIVER["keras"], "mpi4py": "4.1.2"}
    here(monkeypatch, mpi4py="not installed")
    with pytest.raises(WorkersDisagreeError, match=r"mpi4py is not .*CollectiveConfig\(transport="):
        check_versions(driver)


def test_versions_of_this_environment() -> None:
    found = versions(["numpy", "no-such-package"])
    assert found["no-such-package"] == "not installed"
    assert set(found) == {"python", "numpy", "no-such-package"}
