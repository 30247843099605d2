"""Bytes through the shuffle per synchronization, from Spark's own metrics, against the formula.

``python -m benchmarks.shuffle_bytes [--workers 2 3 4] [--weights 431080]``. Each number of
workers is a local-cluster of as many executors. BigDL's formula says that a worker of N
receives ``2 K b (N - 1) / N`` bytes from others for K weights of b bytes. The figure is the
largest ratio of what Spark counted to that.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import urllib.request
from typing import Any

from benchmarks._mnist import print_result
from benchmarks.shuffle_sync import model
from spark_dlobd import DLEstimator, ShuffleConfig
from spark_dlobd.backends.shuffle.wire.vectors import bytes_per_weight

ITERATIONS = 8


def cluster(workers: int) -> Any:
    from pyspark.sql import SparkSession

    spark = (
        SparkSession.builder.master(f"local-cluster[{workers},1,1024]")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.port", "0")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.executor.memory", "1g")
        # executors of one host would else read each other's files, which counts as local
        .config("spark.shuffle.readHostLocalDisk", "false")
        .config("spark.shuffle.compress", "false")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def shuffled(spark: Any) -> dict[str, int]:
    """Bytes that Spark counted in gradient and update stages up to now."""
    context = spark.sparkContext
    url = f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}/stages"
    with urllib.request.urlopen(url, timeout=30) as answer:
        stages = json.load(answer)
    ours = [s for s in stages if s["name"].startswith(("gradients of", "update of"))]
    names = ("shuffleRemoteBytesRead", "shuffleLocalBytesRead", "shuffleWriteBytes")
    return {name: sum(stage[name] for stage in ours) for name in names}


def measure(workers: int, weights: int, wires: list[Any]) -> dict[str, Any]:
    spark = cluster(workers)
    found = {}
    try:
        steps = 2 * ITERATIONS
        rows = [([float(i % 7), 1.0, 2.0, 3.0], float(i)) for i in range(workers * steps)]
        df = spark.createDataFrame(rows, "features array<double>, label double").coalesce(1)
        for wire in wires:
            before = shuffled(spark)
            with tempfile.TemporaryDirectory() as cache:
                DLEstimator(
                    model=model(weights),
                    loss="mean_squared_error",
                    optimizer="adam",
                    backend=ShuffleConfig(wire=wire, iterations_per_job=ITERATIONS),
                    numTrainWorkers=workers,
                    batchSize=workers,
                    cacheDir=f"file://{cache}",
                    tracking="none",
                    verbose=0,
                ).fit(df)
            after = shuffled(spark)
            # the first stage of a job reads a checkpoint, the last one writes one
            exchanges = steps - 2 * 0.5
            each = {name: (after[name] - before[name]) / workers / exchanges for name in after}
            formula = 2 * weights * bytes_per_weight(wire) * (workers - 1) / workers
            found[wire] = {
                "from_others": round(each["shuffleRemoteBytesRead"]),
                "formula": round(formula),
                "ratio": round(each["shuffleRemoteBytesRead"] / formula, 4),
                "from_itself": round(each["shuffleLocalBytesRead"]),
                "written": round(each["shuffleWriteBytes"]),
            }
    finally:
        spark.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--weights", type=int, default=431_080)
    parser.add_argument("--wires", nargs="+", default=["fp32", "bf16"])
    options = parser.parse_args()
    per_worker = {}
    for workers in options.workers:
        per_worker[str(workers)] = measure(workers, options.weights, options.wires)
        print(workers, per_worker[str(workers)], flush=True)
    ratios = [found["ratio"] for wires in per_worker.values() for found in wires.values()]
    print_result(
        "shuffle_bytes",
        max(ratios),
        wanted="1.0: 2 K b (N - 1) / N for each worker and synchronization",
        weights=options.weights,
        bytes_per_worker_and_synchronization=per_worker,
    )


if __name__ == "__main__":
    main()
