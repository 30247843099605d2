"""A saved model trained further where it stopped, optimizer included.

Run it with ``python examples/further_fit.py``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _session import spark_session

from spark_dlobd import DLEstimator, DLModel

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def digits(spark: SparkSession) -> DataFrame:
    """1,797 scanned digits: grey values 0 to 1, and the digit."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rows = [((row / 16).tolist(), int(label)) for row, label in zip(images, labels, strict=True)]
    return spark.createDataFrame(rows, "features array<double>, label int")


def network() -> Any:
    import keras

    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def train(model: Any, rows: DataFrame, state: str) -> DLModel:
    return DLEstimator(
        model=model,
        optimizerState=state,
        batchSize=32,
        epochs=4,
        backend="local",
        tracking="none",
        verbose=0,
    ).fit(rows)


def run(spark: SparkSession, folder: Path) -> None:
    """Train on some rows, save, load, train on more; judge on others each time."""
    monday, tuesday, test = digits(spark).randomSplit([0.4, 0.4, 0.2], seed=1)
    first = train(network(), monday, "keep")
    first.save(str(folder / "monday"))
    loaded = DLModel.load(str(folder / "monday"))
    second = train(loaded, tuesday, "resume")
    for name, model in (("monday", first), ("tuesday", second)):
        found = model.evaluate(test)
        steps = int(model.summary.report["steps_per_epoch"]) * model.summary.totalIterations
        print(f"{name:8} {steps:4} steps  loss {found['loss']:.3f}  acc {found['accuracy']:.3f}")


def main() -> None:
    with spark_session("further-fit") as spark, tempfile.TemporaryDirectory() as folder:
        run(spark, Path(folder))


if __name__ == "__main__":
    main()
