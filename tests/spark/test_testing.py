from __future__ import annotations

import pytest
from chispa import DataFramesNotEqualError, SchemasNotEqualError
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession

from spark_dlobd import testing


def frame(spark: SparkSession, *vectors: list[float]) -> DataFrame:
    rows = [
        (index, Vectors.dense(vector), vector, float(index)) for index, vector in enumerate(vectors)
    ]
    return spark.createDataFrame(rows, ["id", "probability", "array", "prediction"])


def test_elements_become_columns(spark: SparkSession) -> None:
    expanded = testing.expand_arrays(frame(spark, [0.25, 0.75], [1.0]))
    assert expanded.columns == [
        "id",
        *("probability_size", "probability_0", "probability_1"),
        *("array_size", "array_0", "array_1"),
        "prediction",
    ]
    assert [row.probability_1 for row in expanded.orderBy("id").collect()] == [0.75, None]


def test_tolerance_holds_inside_vectors(spark: SparkSession) -> None:
    expected = frame(spark, [0.25, 0.75])
    testing.assert_predictions_equal(frame(spark, [0.2501, 0.7499]), expected, precision=1e-3)
    with pytest.raises(DataFramesNotEqualError):
        testing.assert_predictions_equal(frame(spark, [0.2501, 0.7499]), expected, precision=1e-5)


def test_lengths_count(spark: SparkSession) -> None:
    with pytest.raises(DataFramesNotEqualError):
        testing.assert_predictions_equal(frame(spark, [0.5]), frame(spark, [0.5, 0.5]))


def test_schemas_count(spark: SparkSession) -> None:
    df = frame(spark, [0.5])
    with pytest.raises(SchemasNotEqualError):
        testing.assert_predictions_equal(df, df.drop("prediction"))


def test_order_counts_unless_sorted(spark: SparkSession) -> None:
    df = frame(spark, [0.1], [0.2])
    turned = df.orderBy("id", ascending=False)
    testing.assert_predictions_equal(turned, df, order_by=["id"])
    with pytest.raises(DataFramesNotEqualError):
        testing.assert_predictions_equal(turned, df)


def test_datasets(spark: SparkSession) -> None:
    row = testing.digits(spark, rows=20).first()
    assert row is not None
    assert (len(row.features), max(row.features), row.label) == (64, 15 / 16, 0.0)
    line = testing.linear(spark, rows=5, coefficients=(3.0,), intercept=1.0).collect()
    assert all(row.label == pytest.approx(3 * row.features[0] + 1, abs=1e-6) for row in line)
    clouds = testing.blobs(spark, rows=6, classes=3).collect()
    assert [row.label for row in clouds] == [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]
    assert all(abs(row.features[0] - 4 * row.label) < 2 for row in clouds)
