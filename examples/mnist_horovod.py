"""LeNet on MNIST, trained by several processes that average gradients with Horovod.

Run it with ``python examples/mnist_horovod.py --controller gloo`` (TCP) or
``--controller mpi``. It needs the Horovod wheel, see ``spark-dlobd build-horovod``.
MNIST is read from ``--data``, or is Keras's, which downloads it on first use.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _session import spark_session

from spark_dlobd import DLEstimator, HorovodConfig
from spark_dlobd.characterize.subjects.mnist import Mnist, Split, load_mnist
from spark_dlobd.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def lenet() -> Any:
    """LeNet with 431,080 weights. The scaling is a layer, so that pixels stay bytes in Spark."""
    import keras

    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(20, 5),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(50, 5),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(500, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def images(spark: SparkSession, split: Split, rows: int | None, partitions: int) -> DataFrame:
    """One image of 784 bytes a row."""
    import pandas as pd

    pixels, labels = split[0][:rows], split[1][:rows]
    table = pd.DataFrame(
        {"image": [image.tobytes() for image in pixels], "digit": labels.astype("int32")}
    )
    return spark.createDataFrame(table).repartition(partitions)


def run(spark: SparkSession, mnist: Mnist, options: argparse.Namespace) -> None:
    """Train on the training images and score the test images."""
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator

    train, test = mnist
    estimator = DLEstimator(
        model=lenet(),
        loss="sparse_categorical_crossentropy",
        optimizer="adam",
        metrics=["accuracy"],
        featuresCol="image",
        labelCol="digit",
        backend=HorovodConfig(controller=options.controller),
        numTrainWorkers=options.workers,
        batchSize=128,  # of all workers together
        epochs=options.epochs,
        stopWhen=options.stop_when,
        tracking="none",
    )
    fitted = estimator.fit(images(spark, train, options.rows, options.workers))
    report = fitted.report
    rate = max(report["rows_per_second"])
    print(f"{report['workers']} workers, {report['transport']}: {rate:,.0f} rows/s")
    print("loss by epoch:", " ".join(f"{loss:.4f}" for loss in fitted.history["loss"]))
    print(report["limit"]["text"])
    test_rows = options.rows and max(1, options.rows // 6)
    scored = fitted.transform(images(spark, test, test_rows, options.workers))
    evaluator = MulticlassClassificationEvaluator(labelCol="digit", metricName="accuracy")
    print(f"test accuracy {evaluator.evaluate(scored):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train LeNet on MNIST with Horovod.")
    parser.add_argument("--controller", choices=["gloo", "mpi"], default="gloo")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--stop-when", help="e.g. 'accuracy >= 0.98': end before --epochs")
    parser.add_argument("--rows", type=int, help="train on the first rows only")
    parser.add_argument("--data", type=Path, help="folder with MNIST's four idx files")
    parser.add_argument("--master", help="of Spark; default: local, one slot for each worker")
    options = parser.parse_args()
    try:
        mnist = load_mnist(options.data, download=True)
        with spark_session("mnist", options.master or f"local[{options.workers}]") as spark:
            run(spark, mnist, options)
    except (DataError, MissingDependencyError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
