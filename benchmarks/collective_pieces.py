"""What Python in the graph costs the MPI average, and whether pieces that overlap would pay.

``python -m benchmarks.collective_pieces [--rate 1gbit]``. Two ranks take training steps of LeNet
and of a wide network of 5.8 million weights, in turns: without an average, with the gradients
through ``tf.numpy_function`` and back and nothing else, averaged in one piece when all are there
(what `CollectiveConfig` does), and in four pieces, each begun with ``Iallreduce`` when its
gradients are there and waited for at the end of the backward pass. With `rate`, the ranks are on
two emulated hosts with a link of that rate, which takes root. The figure is the time of a step
in pieces over that in one, wide network.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from typing import Any

from benchmarks._mnist import lenet, print_result, session
from benchmarks._pieces import PiecesConfig
from spark_dlobd import DLEstimator, register_backend


def wide() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(2048, activation="relu") for _ in range(2)]
    shape = keras.Input((784,))
    return keras.Sequential([shape, *layers, keras.layers.Dense(10, activation="softmax")])


@contextlib.contextmanager
def cluster(rate: str | None) -> Iterator[Any]:
    """A session on this machine, or on two emulated hosts."""
    if rate is None:
        with session() as spark:
            yield spark
        return
    from pyspark.sql import SparkSession

    from spark_dlobd.characterize.run.hosts import EmulatedHosts

    # workers of a cluster find the benchmark's own modules
    with EmulatedHosts(2, rate=rate, environment={"PYTHONPATH": os.getcwd()}) as hosts:
        builder = SparkSession.builder.master(hosts.master_url)
        for name, value in hosts.spark_conf().items():
            builder = builder.config(name, value)
        with builder.config("spark.executor.memory", "1g").getOrCreate() as spark:
            yield spark


def measure(spark: Any, model: Any, rate: str | None) -> dict[str, float]:
    """Milliseconds of a step, by what is done with its gradients."""
    width = 784
    rows = spark.createDataFrame([([0.5] * width, 1)] * 8, ["features", "label"])
    fitted = DLEstimator(
        model=model,
        loss="sparse_categorical_crossentropy",
        optimizer="adam",
        backend=PiecesConfig(transport="mpi"),
        numTrainWorkers=2,
        batchSize=2,
        cacheDir=None if rate is None else "/tmp",
        tracking="none",
        verbose=0,
    ).fit(rows)
    return dict(fitted.report["step_ms"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", help="of the link between two emulated hosts, e.g. 1gbit")
    rate = parser.parse_args().rate
    register_backend("pieces", "benchmarks._pieces:PiecesConfig")
    with cluster(rate) as spark:
        found = {
            name: measure(spark, model, rate)
            for name, model in {"lenet": lenet(), "wide": wide()}.items()
        }
    figure = found["wide"]["pieces"] / found["wide"]["one"]
    print_result("collective_pieces", figure, wanted="< 1", rate=rate, step_ms=found)


if __name__ == "__main__":
    main()
