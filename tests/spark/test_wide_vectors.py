"""Wide vectors of Spark: sparse on disk, and the same training as from arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import Vectors

from spark_dlobd.errors import DataError
from tests.spark.tiny import estimator

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

WIDTH = 2048


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    """Sparse ones, a dense one of zeros, one that is full, one that is empty."""
    rng = np.random.default_rng(2)
    rows: list[Any] = [
        (Vectors.sparse(WIDTH, sorted(rng.choice(WIDTH, 6, False).tolist()), [1.5] * 6), i % 2)
        for i in range(40)
    ]
    rows += [(Vectors.dense([0.0] * (WIDTH - 1) + [2.0]), 1), (Vectors.sparse(WIDTH, []), 0)]
    rows += [(Vectors.dense(rng.normal(size=WIDTH)), 1)]
    return spark.createDataFrame(rows, ["features", "label"]).coalesce(1).cache()


def network() -> Any:
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(1)])


@pytest.mark.parametrize("reader", ["petastorm", "pyarrow"])
def test_the_same_training_from_far_fewer_bytes(table: DataFrame, reader: str) -> None:
    if reader == "petastorm":
        pytest.importorskip("petastorm")
    settings: dict[str, Any] = {"epochs": 2, "batchSize": 8, "reader": reader, "learningRate": 0.1}
    sparse = estimator(network(), **settings).fit(table)
    arrays = table.withColumn("features", vector_to_array("features", "float32"))
    dense = estimator(network(), **settings).fit(arrays)
    assert sparse.history == dense.history
    assert dense.report["materialized_bytes"] > 43 * 4 * WIDTH
    assert sparse.report["materialized_bytes"] < dense.report["materialized_bytes"] / 10
    scored, again = (sparse.transform(df).toPandas().prediction for df in (table, arrays))
    np.testing.assert_array_equal(scored, again)


def test_rows_that_are_not_valid(spark: SparkSession, table: DataFrame) -> None:
    rows: list[Any] = [
        (Vectors.sparse(3, [1], [1.0]), 1),
        (Vectors.dense([1.0] * 5), 1),
        (Vectors.sparse(WIDTH, [1], [float("nan")]), 1),
        (None, 1),
        (Vectors.sparse(WIDTH, [1], [1.0]), 1),
    ]
    df = spark.createDataFrame(rows, table.schema)
    with pytest.raises(DataError) as caught:
        estimator(network()).fit(df)
    for said in ("4 of 5 rows", "1 null", "1 NaN", "2 wrong length", "seen 3, 5"):
        assert said in str(caught.value)
    assert estimator(network(), handleInvalid="skip").fit(df).report["rows"]["train"] == 1
