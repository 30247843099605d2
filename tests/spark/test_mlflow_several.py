"""MLflow with several inputs, strings and images: signatures, and pandas in and out."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from spark_dlobd import DLEstimator, ImageColumn, log_pipeline_model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from pyspark.sql import DataFrame, SparkSession

mlflow = pytest.importorskip("mlflow")
keras = pytest.importorskip("keras")
OUTPUTS = ["bright_rawPrediction", "bright_probability", "bright_prediction", "price_prediction"]


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    def png(level: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.full((9 + level % 5, 12, 3), level, np.uint8)).save(file, "png")
        return file.getvalue()

    table = [
        (png(20 * i), float(i), i % 3, "red" if i % 2 else "blue", i % 2, i / 2) for i in range(12)
    ]
    schema = "photo binary, age double, visits int, colour string, bright int, price double"
    return spark.createDataFrame(table, schema).coalesce(1).cache()


def network() -> Any:
    keras.utils.set_random_seed(1)
    photo = keras.Input((4, 4, 3), name="photo")
    numbers = keras.Input((2,), name="numbers")
    colour = keras.Input((1,), name="colour", dtype="string")
    seen = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(photo))
    known = keras.layers.StringLookup(vocabulary=["red", "blue"], output_mode="one_hot")(colour)
    joined = keras.layers.Concatenate()([seen, numbers, known])
    bright = keras.layers.Dense(1, "sigmoid", name="bright")(joined)
    price = keras.layers.Dense(1, name="price")(joined)
    return keras.Model([photo, numbers, colour], {"bright": bright, "price": price})


@pytest.fixture(scope="module")
def logged(
    mlflow_server: str, rows: DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any]:
    from pyspark.ml import Pipeline

    stage = DLEstimator(
        model=network(),
        inputs={
            "photo": ImageColumn("photo", size=(4, 4)),
            "numbers": ["age", "visits"],
            "colour": "colour",
        },
        labels={"bright": "bright", "price": "price"},
        loss={"bright": "binary_crossentropy", "price": "mse"},
        batchSize=4,
        backend="local",
        verbose=0,
    )
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(mlflow_server)
    try:
        with mlflow.start_run():
            model = Pipeline(stages=[stage]).fit(rows)
            folder = str(tmp_path_factory.mktemp("dfs"))
            example = rows.drop("bright", "price")
            info = log_pipeline_model(model, dfs_tmpdir=folder, example=example)
    finally:
        mlflow.set_tracking_uri(before)
    return model, info


def test_keras_signature_names_inputs_and_outputs(
    logged: tuple[Any, Any], client: MlflowClient
) -> None:
    model, _ = logged
    uri = f"models:/{model.stages[0].report['mlflow_model_id']}"
    signature = mlflow.models.get_model_info(uri).signature
    found = {spec.name: (spec.type.kind, spec.shape) for spec in signature.inputs.inputs}
    assert found == {
        "photo": ("f", (-1, 4, 4, 3)),
        "numbers": ("f", (-1, 2)),
        "colour": ("U", (-1, 1)),
    }
    assert [spec.name for spec in signature.outputs.inputs] == ["bright", "price"]


def test_the_run_has_the_columns_of_its_rows(logged: tuple[Any, Any], client: MlflowClient) -> None:
    run = client.get_run(logged[0].stages[0].report["mlflow_run_id"])
    (entry,) = run.inputs.dataset_inputs
    schema = json.loads(entry.dataset.schema)["mlflow_tensorspec"]
    features, labels = json.loads(schema["features"]), json.loads(schema["targets"])
    assert [one["name"] for one in features] == ["photo", "age, visits", "colour"]
    assert [one["tensor-spec"]["dtype"] for one in features] == ["uint8", "float32", "str"]
    assert [one["name"] for one in labels] == ["bright", "price"]


def test_pipeline_signature_has_columns(logged: tuple[Any, Any]) -> None:
    _, info = logged
    assert info.signature.inputs.input_names() == ["photo", "age", "visits", "colour"]
    assert str(info.signature.inputs.input_types()[0]) == "DataType.binary"
    assert info.signature.outputs.input_names() == OUTPUTS


def test_pyfunc_takes_bytes_and_gives_all_outputs(
    logged: tuple[Any, Any],
    rows: DataFrame,
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    model, info = logged
    monkeypatch.setenv("MLFLOW_DFS_TMP", str(tmp_path))
    given = rows.drop("bright", "price").toPandas()
    found = mlflow.pyfunc.load_model(info.model_uri).predict(given)
    assert found.columns.tolist() == OUTPUTS
    scored = model.transform(rows).toPandas()
    np.testing.assert_allclose(found.price_prediction, scored.price_prediction, rtol=1e-6)
    wanted = np.stack([vector.toArray() for vector in scored.bright_probability])
    np.testing.assert_allclose(np.stack(found.bright_probability), wanted, rtol=1e-6)


def test_a_column_that_is_missing_is_named(
    logged: tuple[Any, Any], client: MlflowClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import pandas as pd

    monkeypatch.setenv("MLFLOW_DFS_TMP", str(tmp_path))
    loaded = mlflow.pyfunc.load_model(logged[1].model_uri)
    with pytest.raises(mlflow.exceptions.MlflowException, match="photo"):
        loaded.predict(pd.DataFrame({"age": [1.0], "visits": [1], "colour": ["red"]}))
