"""Rows per second of `DLModel.transform` against `keras.Model.predict` on the same cores.

Run with ``python -m benchmarks.scoring``. Both score the same number of generated
rows of MNIST's shape with the same LeNet. Keras reads one array that lies in
memory; Spark reads a cached DataFrame and writes every output column to the
``noop`` sink. They take turns in one process, after a warm-up of each. The figure
compares with ``predict(array)`` as people call it (Keras's own batch of 32); the
ratio to ``predict`` with the batch size that Spark's side uses stands beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import psutil

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

SHAPE = (28, 28, 1)
PIXELS = 784


def lenet() -> Any:
    import keras

    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(20, 5, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(50, 5, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(500, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def generate(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Runs on each worker. Random pixels in [0, 1) as a list of floats a row."""
    import pyarrow as pa

    for batch in batches:
        count = batch.num_rows
        draw = np.random.default_rng(batch.column(0)[0].as_py() if count else 0)
        values = pa.array(draw.random(count * PIXELS, np.float32))
        offsets = pa.array(np.arange(count + 1, dtype=np.int32) * PIXELS)
        rows = pa.ListArray.from_arrays(offsets, values)
        yield pa.RecordBatch.from_arrays([rows], ["features"])


def cached_rows(spark: SparkSession, rows: int, partitions: int) -> DataFrame:
    df = spark.range(0, rows, 1, partitions).mapInArrow(generate, "features array<float>").cache()
    assert df.count() == rows
    return df


def session(cores: int) -> SparkSession:
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    spark = (
        SparkSession.builder.master(f"local[{cores}]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "3g")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def cpu_seconds() -> float:
    """CPU time so far of this process, the JVM and its Python workers."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def measure(action: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds; CPU tells more on a machine that others use too."""
    start, cpu = time.perf_counter(), cpu_seconds()
    action()
    return time.perf_counter() - start, cpu_seconds() - cpu


@click.command()
@click.option("--rows", default=60_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--batch-size", default=256, show_default=True)
@click.option("--partitions", default=0, help="0 takes one per core.")
def main(rows: int, rounds: int, batch_size: int, partitions: int) -> None:
    """Print rows per second of both and, last, one JSON object."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    from spark_dlobd.estimators.model import DLModel

    cores = len(os.sched_getaffinity(0))
    spark = session(cores)
    network = lenet()
    df = cached_rows(spark, rows, partitions or cores)
    model = DLModel(predictBatchSize=batch_size).setModel(network, "classification")
    array = np.random.default_rng(0).random((rows, *SHAPE), np.float32)

    def spark_transform() -> None:
        model.transform(df).write.format("noop").mode("overwrite").save()

    contenders = {
        "keras": lambda: network.predict(array, verbose=0),
        "keras_same_batch": lambda: network.predict(array, batch_size=batch_size, verbose=0),
        "spark": spark_transform,
    }
    rates, cpu = in_turns(contenders, rows, rounds)
    spark.stop()
    facts = {"rows": rows, "batch_size": batch_size, "cores": cores}
    print(json.dumps(summary("scoring", rates, cpu, **facts)))


def in_turns(
    contenders: dict[str, Callable[[], Any]], rows: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Rows/s and CPU microseconds a row of each contender in each round, after a warm-up."""
    for action in (*contenders.values(), contenders["spark"]):
        action()
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(rounds):
        for name, action in contenders.items():
            wall, busy = measure(action)
            rates[name].append(rows / wall)
            cpu[name].append(busy / rows * 1e6)
        latest = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items())
        print(f"round {index + 1}, rows/s: {latest}", flush=True)
    return rates, cpu


def summary(
    name: str,
    rates: dict[str, list[float]],
    cpu: dict[str, list[float]],
    **facts: int,
) -> dict[str, Any]:
    def ratio(baseline: str) -> float:
        pairs = zip(rates[baseline], rates["spark"], strict=True)
        return round(statistics.median(ours / theirs for theirs, ours in pairs), 3)

    return {
        "name": name,
        "figure": ratio("keras"),
        "wanted": ">= 1.0",
        "unit": "rows/s of DLModel.transform / rows/s of keras.Model.predict(array)",
        "figure_same_batch_size": ratio("keras_same_batch"),
        "rows_per_s": {name: round(statistics.median(values)) for name, values in rates.items()},
        "cpu_us_per_row": {name: round(statistics.median(v), 1) for name, v in cpu.items()},
        **facts,
    }


if __name__ == "__main__":
    main()
