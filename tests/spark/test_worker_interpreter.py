"""Sessions whose workers would run, or do run, another Python than the driver's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from spark_dlobd.data.columns import feature_column, label_column
from spark_dlobd.data.materialize import first_rows
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.job.columns import ColumnSpec

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PROGRAM = """
import os, sys, keras
from pyspark.sql import SparkSession
from spark_dlobd import DLEstimator, DLModel
from spark_dlobd.errors import ConfigurationError

def session():
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    return builder.config("spark.driver.host", "127.0.0.1").getOrCreate()

spark = session()
network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
network.compile("sgd", "sparse_categorical_crossentropy")
rows = [([0.0, 1.0], 0.0), ([1.0, 0.0], 1.0)] * 4
def frame(spark):
    return spark.createDataFrame(rows, "features array<double>, label double").repartition(2)
estimator = DLEstimator(model=network, loss="sparse_categorical_crossentropy", batchSize=4,
    epochs=1, backend="local", tracking="none", verbose=0)
print("before", spark.sparkContext.pythonExec)
print("evaluated", *DLModel().setModel(network).evaluate(frame(spark)))
model = estimator.fit(frame(spark))
print("scored", model.transform(frame(spark)).select("prediction").toPandas().shape)
where = lambda _: [sys.executable]
print("barrier", spark.sparkContext.range(0, 1, 1, 1).barrier().mapPartitions(where).collect())
spark.stop()
os.environ["PYSPARK_PYTHON"] = sys.argv[1]
spark = session()
for act in (estimator.fit, estimator.explain, model.transform, model.evaluate):
    try:
        act(frame(spark))
    except ConfigurationError as error:
        print("refused", error)
"""


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A Python without packages, as `python3`."""
    path = tmp_path / "python3"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_a_session_of_an_environment_that_was_not_activated(bare: str) -> None:
    environment = {**os.environ, "PATH": f"{Path(bare).parent}{os.pathsep}{os.environ['PATH']}"}
    del environment["PYSPARK_PYTHON"]
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, bare],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    lines = found.stdout.splitlines()
    assert lines[:2] == ["before python3", "evaluated loss"]
    assert lines[2:4] == ["scored (8, 1)", f"barrier ['{sys.executable}']"]
    assert len(lines) == 8
    for line in lines[4:]:
        assert line.startswith(
            f"refused Python workers of this session run '{bare}' (chosen by PYSPARK_PYTHON), "
            f"the driver runs '{sys.executable}'"
        )
        assert "no pyarrow" in line


def test_workers_that_lack_packages_end_a_job_with_one_of_our_errors(
    spark: SparkSession, bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    df = spark.createDataFrame([(1.0, 0.0)], "x double, y double")
    columns = ColumnSpec.of(feature_column(df.schema, "x", (1,)), label_column(df.schema, "y"))
    monkeypatch.setattr(spark.sparkContext, "pythonExec", bare)
    message = rf"^Python workers lack a package: No module named .*PYSPARK_PYTHON.*run '{bare}'"
    with pytest.raises(ConfigurationError, match=message):
        first_rows(df, columns, 1, "error")
