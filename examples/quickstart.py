"""Handwritten digits: a Keras model trained, scored, saved and reloaded inside a Pipeline.

Everything is small on purpose, to show each part of the work within a minute: on a laptop one
process alone trains these 1,797 digits in a second. What takes time here is starting things.

Run it with ``python examples/quickstart.py [--output DIR]``, in a checkout also ``make demo``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _session import spark_session
from _tracking import shown, ui_command, use_mlflow

from spark_dlobd import DLEstimator
from spark_dlobd.tracking.progress import waiting

if TYPE_CHECKING:
    from pyspark.ml import Pipeline, PipelineModel
    from pyspark.sql import DataFrame, SparkSession

PIXELS = [f"pixel{i:02}" for i in range(64)]
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
EXPECTED_ACCURACY = 0.95


def digits(spark: SparkSession) -> DataFrame:
    """1,797 scanned digits: 64 columns of grey values 0 to 16, and the digit as a word."""
    import pandas as pd
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    table = pd.DataFrame(images, columns=PIXELS)
    table["id"] = range(len(table))
    table["digit"] = [NAMES[label] for label in labels]
    return spark.createDataFrame(table)


def network() -> Any:
    """A Keras model as any other."""
    import keras

    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def pipeline() -> Pipeline:
    """From pixel columns and words to a predicted word."""
    from pyspark.ml import Pipeline
    from pyspark.ml.feature import IndexToString, MinMaxScaler, StringIndexer, VectorAssembler

    estimator = DLEstimator(
        model=network(),
        loss="sparse_categorical_crossentropy",
        optimizer="adam",
        metrics=["accuracy"],
        learningRate=0.02,
        numTrainWorkers=2,
        batchSize=256,  # of both workers together
        epochs=8,
        validationFraction=0.1,
    )
    return Pipeline(
        stages=[
            StringIndexer(inputCol="digit", outputCol="label"),
            VectorAssembler(inputCols=PIXELS, outputCol="pixels"),
            MinMaxScaler(inputCol="pixels", outputCol="features"),
            estimator,
            IndexToString(inputCol="prediction", outputCol="predicted"),
        ]
    )


def scores(fitted: PipelineModel, rows: DataFrame) -> list[Any]:
    """What the pipeline says about each row."""
    columns = ["id", "digit", "predicted", "prediction", "probability"]
    return sorted(fitted.transform(rows).select(*columns).collect())


def save_and_load(fitted: PipelineModel, path: Path) -> PipelineModel:
    """The pipeline as another program would load it."""
    from pyspark.ml import PipelineModel

    fitted.write().overwrite().save(str(path))
    return PipelineModel.load(str(path))


def learning_curves(run_id: str, folder: Path) -> Path:
    """Copy the picture that the MLflow run holds."""
    import mlflow

    source = f"runs:/{run_id}/learning_curves.png"
    return Path(mlflow.artifacts.download_artifacts(source, dst_path=str(folder)))


class Clock:
    """Prints what was done, with the seconds since the line before."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def done(self, name: str, told: str) -> None:
        """Say what was done."""
        now = time.monotonic()
        self.seconds[name], self._began = now - self._began, now
        print(f"{name:<8} {self.seconds[name]:4.0f} s  {told}", flush=True)

    def summary(self) -> str:
        """Where the time went, in one sentence."""
        parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.0f} s in all: {parts}"


def demo(spark: SparkSession, folder: Path, clock: Clock) -> dict[str, str]:
    """Train, score, save, load and score again; return what came out of it.

    Raises
    ------
    SystemExit
        If the model is not as good as it should be, or changes by being saved.
    """
    train, test = digits(spark).randomSplit([0.8, 0.2], seed=1)
    fitted: Any = pipeline().fit(train)
    report = fitted.stages[3].report
    clock.done("fit", f"{report['rows']['train']:,} digits, {report['workers']} workers")
    test = test.coalesce(1)  # few rows: one process that imports TensorFlow is enough
    with waiting("score"):
        scored = scores(fitted, test)
    accuracy = sum(row.predicted == row.digit for row in scored) / len(scored)
    clock.done("score", f"{len(scored)} digits")
    if accuracy < EXPECTED_ACCURACY:
        raise SystemExit(f"FAILED: accuracy {accuracy:.3f}, less than {EXPECTED_ACCURACY}.")
    path = folder / "pipeline"
    with waiting("save, load and score again"):
        again = scores(save_and_load(fitted, path), test)
    if again != scored:
        raise SystemExit(f"FAILED: the pipeline loaded from {path} predicts something else.")
    clock.done("save", f"{shown(path)}; loaded again, it predicts the same")
    curves = learning_curves(report["mlflow_run_id"], folder)
    return {
        "accuracy": f"{accuracy:.3f} on {len(scored)} digits it has not seen",
        "time": clock.summary(),
        "pictures": f"{shown(curves)}; more in MLflow, at http://127.0.0.1:5000 after",
    }


INTRODUCTION = """\
A Keras network learns handwritten digits in a Spark ML Pipeline, with two workers on this machine;
then the pipeline is saved, loaded and compared. It is small, to show every part within a minute:
what takes time is starting Spark and TensorFlow, not training. For speed see docs/benchmarks.md.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a Keras model inside a Spark ML Pipeline.")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to write")
    folder = parser.parse_args().output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(INTRODUCTION, flush=True)
    clock = Clock()
    with spark_session("quickstart", meanwhile=lambda: use_mlflow(folder, "digits")) as spark:
        clock.done("start", "Spark, TensorFlow and MLflow")
        found = demo(spark, folder, clock)
    print()
    for name, text in found.items():
        print(f"{name:<8}  {text}")
    print(f"          {ui_command(folder)}")


if __name__ == "__main__":
    main()
