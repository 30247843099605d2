"""A real cluster: two executor JVMs with one slot each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import cloudpickle
import pytest

from tests.cluster import faults, shuffle_faults

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Executors cannot import the tests.
cloudpickle.register_pickle_by_value(faults)
cloudpickle.register_pickle_by_value(shuffle_faults)


@pytest.fixture(scope="package")
def spark() -> Iterator[SparkSession]:
    """Session on ``local-cluster``; ends with this package, as one process has one context."""
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    assert active is None, "run tests/cluster first or in a process of its own"
    session = (
        SparkSession.builder.master("local-cluster[2,1,1536]")
        .appName("spark-dlobd-cluster-tests")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.executor.memory", "1g")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture(scope="package")
def blobs(spark: SparkSession) -> DataFrame:
    """400 rows of two well separated classes in four partitions."""
    import numpy as np

    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    features = rng.normal(size=(400, 4)) + 3.0 * labels[:, None]
    rows = [(f.tolist(), int(y)) for f, y in zip(features, labels, strict=True)]
    frame = spark.createDataFrame(rows, "features array<double>, label int").repartition(4)
    return frame.cache()


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Half a minute after the test no process, port or temporary file of ours is there."""
    before = faults.ours()
    yield
    left = faults.wait_until_gone(before, timeout_s=30.0)
    assert not left, f"left behind by {sys.argv[0]}: {left}"
