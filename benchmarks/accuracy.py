"""Test accuracy of LeNet on MNIST after 2 epochs, with every way of training.

``python -m benchmarks.accuracy [--ways gloo mpi shuffle shuffle_bf16 ps_1 ps_2]``: 2 workers,
batch 128; with parameter servers one or two of them. The figure is the lowest of all.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks._mnist import estimator, frame, mnist, print_result, session
from spark_dlobd import HorovodConfig, ParameterServerConfig, ShuffleConfig

WAYS: dict[str, Any] = {
    "gloo": HorovodConfig(controller="gloo"),
    "mpi": HorovodConfig(controller="mpi"),
    "shuffle": ShuffleConfig(),
    "shuffle_bf16": ShuffleConfig(wire="bf16"),
    "ps_1": ParameterServerConfig(num_ps=1),
    "ps_2": ParameterServerConfig(num_ps=2),
}


def main() -> None:
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator

    parser = argparse.ArgumentParser()
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    (x, y), (x_test, y_test) = mnist()
    spark = session()
    train, test = frame(spark, x, y), frame(spark, x_test, y_test)
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    accuracy: dict[str, float] = {}
    losses: dict[str, Any] = {}
    for way in options.ways:
        model = estimator(epochs=2, backend=WAYS[way]).fit(train)
        accuracy[way] = evaluator.evaluate(model.transform(test))
        losses[way] = [round(value, 5) for value in model.history["loss"]]
        print(f"{way}: {accuracy[way]:.4f}", flush=True)
    spark.stop()
    print_result(
        "accuracy",
        min(accuracy.values()),
        wanted=">= 0.985",
        accuracy=accuracy,
        loss=losses,
    )


if __name__ == "__main__":
    main()
