"""Trains with every backend on two emulated hosts. ``two_hosts.py CACHE_DIR RATE [BACKEND...]``;
RATE may be empty.

A program of its own, because a process has one Spark session. Prints a JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from spark_dlobd import (
    CollectiveConfig,
    DLEstimator,
    HorovodConfig,
    LocalConfig,
    ParameterServerConfig,
    ShuffleConfig,
)
from spark_dlobd.characterize.run.hosts import EmulatedHosts

BACKENDS: dict[str, Any] = {
    "local": LocalConfig(),
    "collective": CollectiveConfig(transport="ring"),
    "collective-mpi": CollectiveConfig(transport="mpi", mpi_transport="tcp"),
    "gloo": HorovodConfig(),
    "mpi": HorovodConfig(controller="mpi"),
    "mpi-ucx": HorovodConfig(controller="mpi", transport="ucx", ucx_tls="tcp,self"),
    "parameter_server": ParameterServerConfig(num_ps=2, steps_per_call=1),
    "shuffle": ShuffleConfig(iterations_per_job=3),
}


def fit(df: Any, backend: Any, cache: str) -> dict[str, Any]:
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2, "softmax")]
    )
    fitted = DLEstimator(
        model=model,
        loss="sparse_categorical_crossentropy",
        backend=backend,
        numTrainWorkers=2,
        batchSize=20,
        epochs=2,
        seed=1,
        cacheDir=f"file://{cache}",
        tracking="none",
        verbose=0,
    ).fit(df)
    return {"loss": fitted.history["loss"], "transport": fitted.report["transport"]}


def main(cache: str, rate: str | None, names: list[str]) -> None:
    from pyspark.sql import SparkSession

    with EmulatedHosts(2, rate=rate) as hosts:
        builder = SparkSession.builder.master(hosts.master_url)
        for name, value in hosts.spark_conf().items():
            builder = builder.config(name, value)
        spark = builder.config("spark.executor.memory", "1g").getOrCreate()
        spark.sparkContext.setLogLevel("OFF")
        try:
            rows = [([float(i % 2)] * 4, i % 2) for i in range(110)]
            df = spark.createDataFrame(rows, "features array<double>, label int").cache()
            found: dict[str, Any] = {}
            for name in names:
                found[name] = fit(df, BACKENDS[name], cache)
                print(name, "done", file=sys.stderr, flush=True)
            found["addresses"] = sorted(
                spark.range(0, 2, 1, 2).rdd.mapPartitions(_address).collect()
            )
        finally:
            spark.stop()
    print(json.dumps(found))


def _address(_: Any) -> Any:
    import os
    import time

    time.sleep(1)  # so that each host gets one task
    yield os.environ["SPARK_LOCAL_IP"]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] or None, sys.argv[3:] or list(BACKENDS))
