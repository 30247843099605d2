"""The blocks of docs/operators.md, run as they stand on a cluster that has none of the packages."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.environments import make_bare_environment, make_environment
from tests.cluster.standalone import StandaloneCluster
from tests.pages import block

pytestmark = [pytest.mark.usefixtures("nothing_left"), pytest.mark.timeout(1500)]
PAGE = "operators.md"
_TIMEOUT_S = 600
BACKENDS = ["shuffle"]
if importlib.util.find_spec("horovod"):
    BACKENDS += ["gloo", "mpi"]
# Added to the page's program: where the executors' tasks and the driver find what they run.
WHERE = """

def where(_):
    import os
    import sys

    import keras
    import numpy
    import spark_dlobd

    yield {
        "folder": os.getcwd(),
        "python": sys.executable,
        "modules": [module.__file__ for module in (keras, numpy, spark_dlobd)],
    }


import json

tasks = spark.sparkContext.parallelize(range(2), 2).mapPartitions(where).collect()
print("WHERE", json.dumps(tasks))
"""


@dataclass
class Cluster:
    """A workplace whose environment is packed, and a cluster without any packages."""

    folder: Path
    environment: dict[str, str]

    def run(self, script: str) -> str:
        """Run a shell script in the workplace and return what it printed."""
        log = self.folder / "script.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=self.folder,
                env=self.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code: int | str
            try:
                code = process.wait(timeout=_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                code = f"none within {_TIMEOUT_S} s"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(timeout=10)
        printed = log.read_text(errors="replace")
        assert code == 0, f"exit code {code}: {printed[-6000:]}"
        return printed


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    import pyspark

    folder = tmp_path_factory.mktemp("operators")
    make_environment(folder / "environment", ["horovod", "venv-pack"])
    make_bare_environment(folder / "bare")
    (folder / "train.py").write_text(block(PAGE, "train.py") + WHERE)
    (folder / "shared").mkdir()
    spark_home = Path(pyspark.__file__).parent
    # nothing of the tests' own environment, whose packages must not be found by chance
    kept = ("HOME", "JAVA_HOME", "LANG", "TMPDIR", "USER")
    plain = {name: os.environ[name] for name in kept if name in os.environ}
    workers = {**plain, "PATH": f"{folder}/bare/bin:{os.defpath}"}
    with StandaloneCluster(folder, environment=workers) as started:
        yield Cluster(
            folder,
            {
                **plain,
                "PATH": f"{spark_home}/bin:{os.defpath}",
                "SPARK_HOME": str(spark_home),
                "SPARK_LOCAL_IP": "127.0.0.1",
                "MASTER": started.url,
                "CACHE_DIR": f"file://{folder}/shared",
                "CORES": "1",
                "BACKENDS": " ".join(BACKENDS),
            },
        )


@pytest.fixture(scope="module")
def printed(cluster: Cluster) -> str:
    """What the page's program prints on the cluster."""
    cluster.run(block(PAGE, "pack"))
    return cluster.run(block(PAGE, "submit"))


def test_python_of_the_workers_has_no_packages(cluster: Cluster) -> None:
    code = "from importlib.util import find_spec as f; print(f('numpy'), f('spark_dlobd'))"
    assert cluster.run(f'bare/bin/python3 -c "{code}"') == "None None\n"


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_fit_on_a_cluster_learns(printed: str, backend: str) -> None:
    name = "shuffle" if backend == "shuffle" else "horovod"
    found = re.search(rf"^{backend}: {name} was right on ([\d.]+)% of the rows$", printed, re.M)
    assert found, printed[-3000:]
    assert float(found[1]) > 95


def test_executors_run_what_the_archive_holds(cluster: Cluster, printed: str) -> None:
    found = re.search(r"^WHERE (.*)$", printed, re.M)
    assert found, printed[-3000:]
    tasks: list[dict[str, Any]] = json.loads(found[1])
    works = sorted(Path(task["folder"]).relative_to(cluster.folder).parts[0] for task in tasks)
    assert works == ["work-0", "work-1"]
    for task in tasks:
        environment = Path(task["folder"]) / "environment"
        assert Path(task["python"]) == environment / "bin" / "python"
        assert all(Path(module).is_relative_to(environment) for module in task["modules"])


def test_doctor_hears_of_both_executors(cluster: Cluster, printed: str) -> None:
    # The tests' environment lacks what only a driver uses, which the doctor calls a failure.
    found = cluster.run(block(PAGE, "doctor").rstrip() + " || true\n")
    assert re.search(r"slots +2\b", found), found[-3000:]
    assert "2 of 2 answered" in found, found[-3000:]
