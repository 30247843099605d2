"""Program that is killed by its test while it has rows in the cache: ``writing`` or ``reading``."""

from __future__ import annotations

import sys
import time


def main() -> None:
    from pyspark.sql import SparkSession

    from spark_dlobd.data.columns import feature_column, label_column
    from spark_dlobd.data.materialize import materialize
    from spark_dlobd.job.columns import ColumnSpec

    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    df = spark.range(0, 400, 1, 2).selectExpr("double(id) x", "id y")
    if sys.argv[1] == "writing":
        # rows come so slowly that the files are still open after minutes
        df = spark.range(0, 400, 1, 2).selectExpr("id").mapInPandas(slow, "x double, y long")
    columns = ColumnSpec.of(feature_column(df.schema, "x", ()), label_column(df.schema, "y"))
    with materialize(df, columns) as data:
        print(data.root, flush=True)
        time.sleep(600)


def slow(parts):  # type: ignore[no-untyped-def]
    """Runs on each worker."""
    import pandas as pd

    for part in parts:
        for number in part["id"]:
            yield pd.DataFrame({"x": [float(number)], "y": [number]})
            time.sleep(1)


if __name__ == "__main__":
    main()
