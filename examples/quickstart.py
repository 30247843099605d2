"""Handwritten digits: a Keras model trained, scored, saved and reloaded inside a Pipeline.

Run it with ``make demo`` or ``python examples/quickstart.py [--output DIR]``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _session import spark_session
from _tracking import shown, ui_command, use_mlflow

from spark_dlobd import DLEstimator

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
        batchSize=128,  # of both workers together
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


def demo(spark: SparkSession, folder: Path) -> None:
    """Train, score, save, load and score again.

    Raises
    ------
    SystemExit
        If the model is not as good as it should be, or changes by being saved.
    """
    use_mlflow(folder, "digits")
    train, test = digits(spark).randomSplit([0.8, 0.2], seed=1)
    print("Training a Keras model inside a Spark ML Pipeline ...", flush=True)
    began = time.monotonic()
    fitted: Any = pipeline().fit(train)
    seconds = time.monotonic() - began
    report = fitted.stages[3].report
    print(f"  trained   {report['rows']['train']:,} digits, {report['workers']} workers,", end=" ")
    print(f"{seconds:.0f} s; backend {report['backend']} ({report['backend_reason']})")
    scored = scores(fitted, test)
    accuracy = sum(row.predicted == row.digit for row in scored) / len(scored)
    print(f"  accuracy  {accuracy:.3f} on {len(scored)} digits it has not seen", flush=True)
    if accuracy < EXPECTED_ACCURACY:
        raise SystemExit(f"FAILED: the accuracy must be at least {EXPECTED_ACCURACY}.")
    path = folder / "pipeline"
    if scores(save_and_load(fitted, path), test) != scored:
        raise SystemExit(f"FAILED: the pipeline loaded from {path} predicts something else.")
    print(f"  saved     {shown(path)}; loaded again, it predicts the same")
    curves = learning_curves(report["mlflow_run_id"], folder)
    print(f"  curves    {shown(curves)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a Keras model inside a Spark ML Pipeline.")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to write")
    folder = parser.parse_args().output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with spark_session("quickstart") as spark:
        demo(spark, folder)
    print("Look at the run in a browser, at http://127.0.0.1:5000, with")
    print(f"  {ui_command(folder)}")


if __name__ == "__main__":
    main()
