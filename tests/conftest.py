"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["PYSPARK_PYTHON"] = sys.executable
os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
# Defaults of every session and program of the tests.
os.environ.setdefault("SPARK_CONF_DIR", str(Path(__file__).with_name("spark_conf")))
os.environ.setdefault("SPARK_DAEMON_JAVA_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")


# Marker to words of a test's name: `pytest -m "shuffle and not slow"`.
_WORDS = {
    "horovod": {"horovod", "gloo", "mpi"},
    "collective": {"collective", "ring"},
    "shuffle": {"shuffle"},
    "parameter_server": {"ps", "server", "servers"},
    "faults": {"faults", "killed", "cancelled"},
}
_PLACES = {
    "root": ("tests/cluster/test_hosts",),
    "slow": (
        "tests/programs/",
        "tests/cluster/test_hosts",
        "tests/cluster/test_operators",
        "tests/cluster/test_shuffle_environments",
    ),
}


def marks_of(nodeid: str) -> set[str]:
    """Markers of a test, from its path, its name and its parameters.

    >>> sorted(marks_of("tests/cluster/test_faults.py::test_rank_killed[gloo]"))
    ['faults', 'horovod']
    """
    words = set(re.split(r"[^a-z]+", nodeid.lower()))
    named = {mark for mark, of_mark in _WORDS.items() if words & of_mark}
    return named | {mark for mark, places in _PLACES.items() if nodeid.startswith(places)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test the markers that its name says."""
    for item in items:
        for mark in sorted(marks_of(item.nodeid)):
            item.add_marker(mark)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """One local Spark session with two slots for all tests of a run."""
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[2]")
        .appName("spark-dlobd-tests")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.driver.memory", "3g")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()
