"""A fit inside an MLflow run, its models logged in two flavours, loaded back and compared.

Run it with ``python examples/mlflow_roundtrip.py [--output DIR]``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _session import spark_session
from _tracking import ui_command, use_mlflow

from spark_dlobd import DLEstimator, log_pipeline_model

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.ml import Pipeline
    from pyspark.sql import SparkSession


def wines() -> pd.DataFrame:
    """178 wines: 13 measurements each, label 0 to 2 for the grower."""
    from sklearn.datasets import load_wine

    bunch = load_wine(as_frame=True)
    table: pd.DataFrame = bunch.frame.rename(columns={"target": "label"})
    return table.rename(columns=lambda name: name.replace("/", "_"))


def network() -> Any:
    import keras

    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((13,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


def pipeline(columns: list[str]) -> Pipeline:
    from pyspark.ml import Pipeline
    from pyspark.ml.feature import StandardScaler, VectorAssembler

    return Pipeline(
        stages=[
            VectorAssembler(inputCols=columns, outputCol="measured"),
            StandardScaler(inputCol="measured", outputCol="features", withMean=True),
            DLEstimator(
                model=network(),
                loss="sparse_categorical_crossentropy",
                optimizer="adam",
                learningRate=0.01,
                batchSize=32,
                epochs=10,
            ),
        ]
    )


def roundtrip(spark: SparkSession, temporary: str) -> None:
    """Fit, log, load and score.

    Raises
    ------
    SystemExit
        If a loaded model predicts something else than the fitted one.
    """
    import mlflow
    import numpy as np
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    table = wines()
    features = table.drop(columns="label")
    rows = spark.createDataFrame(table)
    with mlflow.start_run() as run:
        # The fit logs to this run: parameters, metrics, curves and the Keras model.
        fitted = pipeline(list(features)).fit(rows)
        example = rows.drop("label")
        info = log_pipeline_model(fitted, dfs_tmpdir=temporary, example=example)

    expected = [row.prediction for row in fitted.transform(rows).collect()]
    accuracy = np.mean(np.array(expected) == table["label"])
    print(f"run {run.info.run_id}: accuracy {accuracy:.3f}")

    network = mlflow.keras.load_model(f"runs:/{run.info.run_id}/model", dst_path=temporary)
    scaled = fitted.transform(rows).select(vector_to_array(F.col("features"))).collect()
    found = {"keras": network.predict(np.array(scaled)[:, 0], verbose=0).argmax(axis=1)}
    loaded = mlflow.spark.load_model(info.model_uri, dfs_tmpdir=temporary)
    found["spark"] = [row.prediction for row in loaded.transform(rows).collect()]
    found["pyfunc"] = mlflow.pyfunc.load_model(info.model_uri).predict(features)["prediction"]
    for flavour, predictions in found.items():
        same = sum(float(a) == b for a, b in zip(predictions, expected, strict=True))
        print(f"{flavour:<6} {same} of {len(expected)} predictions are the same")
        if same != len(expected):
            raise SystemExit(f"FAILED: the model loaded as {flavour} predicts something else.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Log a fitted pipeline in MLflow and load it.")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to write")
    folder = parser.parse_args().output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    use_mlflow(folder, "wine")
    with (
        spark_session("mlflow-roundtrip") as spark,
        tempfile.TemporaryDirectory(dir=folder) as temporary,
    ):
        roundtrip(spark, temporary)
    print(f"Look at it with\n  {ui_command(folder)}")


if __name__ == "__main__":
    main()
