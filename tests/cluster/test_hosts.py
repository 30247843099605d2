"""Every backend on two hosts, where no address is localhost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spark_dlobd
from spark_dlobd.characterize.run.hosts import EmulatedHosts, remove_stale

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None,
    reason="network namespaces need root and iproute2",
)
pytestmark = [needs_root, pytest.mark.usefixtures("nothing_left")]


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``two_hosts.py`` prints."""
    folder = Path(spark_dlobd.__file__).parents[1]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.cluster.two_hosts",
            str(tmp_path_factory.mktemp("cache")),
            "",
        ],
        capture_output=True,
        text=True,
        timeout=540,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYSPARK_PYTHON": sys.executable},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.timeout(600)
def test_tasks_run_on_both_hosts(trained: dict[str, Any]) -> None:
    assert len(set(trained["addresses"])) == 2
    assert all(address.startswith("10.77.") for address in trained["addresses"])


@pytest.mark.parametrize(
    "backend", ["collective", "collective-mpi", "gloo", "mpi", "mpi-ucx", "shuffle"]
)
def test_loss_curve_is_that_of_virtual_workers(trained: dict[str, Any], backend: str) -> None:
    np.testing.assert_allclose(trained[backend]["loss"], trained["local"]["loss"], rtol=1e-5)


def test_servers_and_workers_of_two_hosts_train_together(trained: dict[str, Any]) -> None:
    losses = trained["parameter_server"]["loss"]
    assert losses[1] < losses[0]
    np.testing.assert_allclose(losses, trained["local"]["loss"], rtol=0.2)


@pytest.mark.parametrize(("backend", "said"), [("mpi", "off-host tcp"), ("mpi-ucx", "ucx=tcp")])
def test_report_says_what_joined_the_hosts(
    trained: dict[str, Any], backend: str, said: str
) -> None:
    assert said in trained[backend]["transport"]


def test_nothing_is_left_after_a_failure() -> None:
    before = namespaces()
    with pytest.raises(RuntimeError, match="the user's"), EmulatedHosts(2, rate="1gbit") as hosts:
        assert all(host.name in namespaces() for host in hosts.hosts)
        raise RuntimeError("the user's own mistake")
    assert namespaces() == before
    assert str(os.getpid()) not in subprocess.check_output(["ip", "-o", "link"], text=True)


def test_hosts_of_a_killed_process_are_removed() -> None:
    program = (
        "import os, signal, contextlib\n"
        "from spark_dlobd.characterize.run.hosts import EmulatedHosts\n"
        "EmulatedHosts(1)._make_network(contextlib.ExitStack())\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    folder = Path(spark_dlobd.__file__).parents[1]
    child = subprocess.Popen([sys.executable, "-c", program], cwd=folder)
    child.wait(timeout=60)
    assert f"dlobd{child.pid}-0" in namespaces()
    remove_stale()
    assert f"dlobd{child.pid}" not in namespaces()
    assert f"dlobd{child.pid}"[-13:] not in subprocess.check_output(["ip", "-o", "link"], text=True)
