"""Rate of reading materialized rows, against pyarrow and petastorm alone.

``python -m benchmarks.reading`` writes 60,000 rows of 784 float32 and reads them in
turns, every figure a median: as `ShardReader` does (shuffled, cut into steps of 64),
as ``pyarrow.parquet.read_table`` of the same files does, and through petastorm's TensorFlow
dataset from ``array<float>`` columns. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_dlobd.data.columns import feature_column, label_column
from spark_dlobd.data.materialize import materialize
from spark_dlobd.data.reader import ShardReader
from spark_dlobd.job.columns import ColumnSpec
from spark_dlobd.job.dataset import DatasetRef
from spark_dlobd.job.plan import ShardPlan

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

WIDTH = 784
BATCH = 64
SEED = 20


def generate(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Random rows for the ids of a batch, the same in every run."""
    import pyarrow as pa

    for batch in batches:
        rows = batch.num_rows
        if not rows:
            continue
        generator = np.random.default_rng([SEED, batch.column(0)[0].as_py()])
        values = pa.array(generator.random(rows * WIDTH, dtype=np.float32))
        offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * WIDTH)
        labels = pa.array(generator.integers(0, 10, rows, dtype=np.int32))
        arrays = [pa.ListArray.from_arrays(offsets, values), labels]
        yield pa.RecordBatch.from_arrays(arrays, names=["features", "label"])


def frame(spark: SparkSession, rows: int) -> DataFrame:
    return spark.range(0, rows, 1, 2).mapInArrow(generate, "features array<float>, label int")


def read_ours(data: DatasetRef) -> int:
    plan = ShardPlan.of(data.train, world_size=1, batch_size=BATCH, seed=SEED)
    return sum(block.rows for block in ShardReader(data, "train", plan, 0).blocks())


def read_pyarrow(data: DatasetRef) -> int:
    """Same arrays by the shortest way pyarrow offers: its buffers, in file order."""
    import pyarrow.parquet as pq

    paths = [group.url[len("file://") :] for group in data.train]
    table = pq.read_table(paths, columns=["features", "label"])
    chunks = []
    for chunk in table.column("features").chunks:
        offsets = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset :][: len(chunk) + 1]
        raw = np.frombuffer(chunk.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
        chunks.append(raw.view(np.float32).reshape(-1, WIDTH))
    features = np.concatenate(chunks)
    labels = table.column("label").to_numpy()
    return min(len(features), len(labels))


def read_ours_tf(data: DatasetRef) -> int:
    plan = ShardPlan.of(data.train, world_size=1, batch_size=BATCH, seed=SEED)
    dataset = ShardReader(data, "train", plan, 0).dataset()
    return sum(int(x.shape[0]) for x, _ in dataset)


def read_petastorm_tf(url: str) -> int:
    """As ``make_tf_dataset`` of petastorm's Spark converter: unbatched, batched again."""
    from petastorm import make_batch_reader
    from petastorm.tf_utils import make_petastorm_dataset

    from spark_dlobd.data.petastorm_source import silence_petastorm

    silence_petastorm()
    with make_batch_reader(url, num_epochs=1, reader_pool_type="dummy") as reader:
        dataset = make_petastorm_dataset(reader).unbatch().batch(BATCH).prefetch(4)
        return sum(int(batch.label.shape[0]) for batch in dataset)


def rates(ways: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Median rows/s of each way, taken in turns after one unmeasured pass."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    counted: dict[str, int] = {}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            counted[name] = way()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return {name: counted[name] / statistics.median(times) for name, times in seconds.items()}


def session() -> SparkSession:
    from pyspark.sql import SparkSession

    spark = (
        SparkSession.builder.master("local[2]")
        .appName("benchmark-reading")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "3g")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def measure(spark: SparkSession, rows: int, repeats: int, folder: Path) -> dict[str, Any]:
    df = frame(spark, rows)
    columns = ColumnSpec.of(
        feature_column(df.schema, "features", (WIDTH,)),
        label_column(df.schema, "label", num_classes=10),
    )
    lists = folder / "lists"
    frame(spark, max(rows // 6, BATCH)).write.parquet(str(lists))
    started = time.perf_counter()
    with materialize(df, columns) as data:
        written_s = time.perf_counter() - started
        ways = {"reader": partial(read_ours, data), "pyarrow": partial(read_pyarrow, data)}
        found = rates(ways, repeats)
        tf_ways = {
            "reader_tf": partial(read_ours_tf, data),
            "petastorm_tf": partial(read_petastorm_tf, lists.as_uri()),
        }
        found |= rates(tf_ways, max(1, repeats // 2))
        files = len(data.train)
    return {
        "name": "reading",
        "figure": round(found["reader"] / found["pyarrow"], 3),
        "wanted": 0.7,
        "rows": rows,
        "files": files,
        "rows_per_s": {name: round(rate) for name, rate in found.items()},
        "tf_against_petastorm": round(found["reader_tf"] / found["petastorm_tf"], 1),
        "dataset_ms_per_step": round(1000 * BATCH / found["reader_tf"], 3),
        "written_rows_per_s": round(rows / written_s),
        "explanation": (
            "A row is one binary value. Both sides copy the file into a buffer and the pages into "
            "columns; read_table then joins these once, while the reader copies each row twice "
            "to bring it from its row group to its place in a block. The reader has two threads, "
            "one for row groups and one for blocks, and must have read 64 MiB before the first."
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    spark = session()
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(spark, options.rows, options.repeats, Path(folder))
    finally:
        spark.stop()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
