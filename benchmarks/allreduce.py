"""Milliseconds of one average of gradients between two processes, by its size and its way.

``python -m benchmarks.allreduce [--rounds 2]``. TensorFlow's ring and MPI through mpi4py beside
Horovod with Gloo and with MPI, in turns; median and nine-tenths of 30 averages, of the round
with the lowest median. The figure is the time of MPI over that of Gloo at LeNet's 1.7 MB.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks._allreduce import TimedCollectiveConfig, TimedHorovodConfig
from benchmarks._mnist import print_result, session
from spark_dlobd import DLEstimator, register_backend

HOROVOD, OTHER = {"ALLREDUCE_OF": "horovod"}, {"ALLREDUCE_OF": "collective"}
WAYS: dict[str, Any] = {
    "mpi": TimedCollectiveConfig(transport="mpi", environment=OTHER),
    "mpi_tcp": TimedCollectiveConfig(transport="mpi", mpi_transport="tcp", environment=OTHER),
    "ring": TimedCollectiveConfig(transport="ring", environment=OTHER),
    "horovod_gloo": TimedHorovodConfig(environment=HOROVOD),
    "horovod_mpi": TimedHorovodConfig(controller="mpi", environment=HOROVOD),
}


def measure(spark: Any, config: Any) -> dict[str, tuple[float, float]]:
    """Start two ranks with one way and return what they timed."""
    import keras

    rows = spark.createDataFrame([([float(i)], float(i)) for i in range(8)], ["features", "label"])
    fitted = DLEstimator(
        model=keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]),
        loss="mse",
        backend=config,
        numTrainWorkers=2,
        batchSize=2,
        tracking="none",
        verbose=0,
    ).fit(rows)
    return dict(fitted.report["allreduce_ms"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    register_backend("timed-horovod", "benchmarks._allreduce:TimedHorovodConfig")
    register_backend("timed-collective", "benchmarks._allreduce:TimedCollectiveConfig")
    best: dict[str, dict[str, tuple[float, float]]] = {}
    with session() as spark:
        for _ in range(rounds):
            for name, config in WAYS.items():
                found = measure(spark, config)
                best[name] = {
                    size: min(times, best.get(name, found)[size]) for size, times in found.items()
                }
    figure = best["mpi"]["1.7 MB"][0] / best["horovod_gloo"]["1.7 MB"][0]
    ratio = round(best["mpi"]["28 MB"][0] / best["horovod_gloo"]["28 MB"][0], 2)
    print_result("allreduce", round(figure, 2), wanted="<= 0.5", of_28_mb=ratio, milliseconds=best)


if __name__ == "__main__":
    main()
