"""Rows/s of one worker that reads Parquet itself, against rows that Spark pushes to it.

``python -m benchmarks.ingestion [--rows 60000]``: 784 float32 a row. TensorFlowOnSpark had
both ways. Pushed rows come from a DataFrame cached in memory, through the JVM and Arrow into
one Python task that views them as arrays, which is less than a training would need: there
they go on to the worker's process, and are not shuffled. The figure is read against pushed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.reading import WIDTH, frame, rates, read_ours, session
from spark_dlobd.data.columns import feature_column, label_column
from spark_dlobd.data.materialize import materialize
from spark_dlobd.job.columns import ColumnSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame


def take(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Runs on each worker. Views pushed rows as arrays and counts them."""
    import pyarrow as pa

    rows = 0
    for batch in batches:
        features = batch.column("features").flatten().to_numpy().reshape(-1, WIDTH)
        labels = batch.column("label").to_numpy()
        rows += min(len(np.ascontiguousarray(features)), len(labels))
    yield pa.RecordBatch.from_arrays([pa.array([rows])], names=["rows"])


def push(cached: DataFrame) -> int:
    return sum(row.rows for row in cached.mapInArrow(take, "rows long").collect())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    spark = session()
    try:
        cached = frame(spark, options.rows).coalesce(1).cache()
        columns = ColumnSpec.of(
            feature_column(cached.schema, "features", (WIDTH,)),
            label_column(cached.schema, "label", num_classes=10),
        )
        with materialize(cached, columns) as data:
            ways: dict[str, Any] = {
                "read": partial(read_ours, data),
                "pushed": partial(push, cached),
            }
            found = rates(ways, options.repeats)
    finally:
        spark.stop()
    print(
        json.dumps(
            {
                "name": "ingestion",
                "figure": round(found["read"] / found["pushed"], 2),
                "rows_per_s": {name: round(rate) for name, rate in found.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
