from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import SparkSession

from spark_dlobd.errors import ConfigurationError, PersistenceError
from spark_dlobd.estimators import stage_files
from spark_dlobd.estimators.model import DLModel
from tests.id_network import IDS, id_network

keras = pytest.importorskip("keras")


@keras.saving.register_keras_serializable("persistence_tests")
class Tripling(keras.layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x * 3.0


def sum_model(*extra: Any, **kwargs: Any) -> DLModel:
    layers = [keras.Input((2,)), *extra, keras.layers.Dense(1, use_bias=False)]
    network = keras.Sequential(layers)
    network.set_weights([np.array([[1.0], [10.0]], "float32")])
    network.compile("sgd", "mse")
    return DLModel(**kwargs).setModel(network)


def test_round_trip_keeps_everything(spark: SparkSession, tmp_path: Path) -> None:
    model = sum_model(featuresCol="f", handleInvalid="skip", predictBatchSize=7)
    model._history = {"loss": [2.0, float(np.float32(1.5))]}
    model._report = {"seconds": {"train": 3.5}, "transport": "none"}
    model._label_metadata = {"ml_attr": {"vals": ["a"], "type": "nominal", "name": "label"}}
    path = f"file://{tmp_path}/model"
    model.save(path)
    assert sorted(os.listdir(tmp_path / "model")) == [".model.keras.crc", "metadata", "model.keras"]
    back = DLModel.load(path)
    assert back.fitted() == model.fitted()
    assert (back.history, back.report) == (model.history, model.report)
    assert back.uid == model.uid
    assert (back.getFeaturesCol(), back.getHandleInvalid()) == ("f", "skip")
    assert back.getPredictBatchSize() == 7
    df = spark.createDataFrame([([1.0, 2.0],), (None,)], "f array<double>")
    assert [row.prediction for row in back.transform(df).collect()] == [21.0]


def test_inside_a_pipeline(spark: SparkSession, tmp_path: Path) -> None:
    df = spark.createDataFrame([(1.0, 2.0), (3.0, 4.0)], ["a", "b"])
    assembler = VectorAssembler(inputCols=["a", "b"], outputCol="features")
    fitted = Pipeline(stages=[assembler, sum_model()]).fit(df)
    path = str(tmp_path / "pipeline")
    fitted.save(path)
    fitted.write().overwrite().save(path)
    rows = PipelineModel.load(path).transform(df).collect()
    assert [row.prediction for row in rows] == [21.0, 43.0]


def test_an_existing_path_is_not_overwritten_unasked(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "model")
    sum_model().save(path)
    before = (tmp_path / "model" / "model.keras").read_bytes()
    with pytest.raises(Exception, match=r"(?i)exists"):
        sum_model(Tripling()).save(path)
    assert (tmp_path / "model" / "model.keras").read_bytes() == before
    sum_model(Tripling()).write().overwrite().save(path)
    assert DLModel.load(path).fitted().network.custom_objects == {
        "persistence_tests>Tripling": Tripling
    }


def test_custom_objects_score_and_come_back(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "model")
    sum_model(Tripling()).save(path)
    df = spark.createDataFrame([([1.0, 2.0],)], "features array<double>")
    assert [row.prediction for row in DLModel.load(path).transform(df).collect()] == [63.0]


def test_missing_custom_objects_are_named(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "model")
    sum_model(Tripling()).save(path)
    registry = keras.saving.get_custom_objects()
    del registry["persistence_tests>Tripling"]
    try:
        with pytest.raises(PersistenceError, match=r"'persistence_tests>Tripling'.*import the"):
            DLModel.load(path)
    finally:
        registry["persistence_tests>Tripling"] = Tripling


def test_missing_or_damaged_model_file(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "model"
    sum_model().save(str(path))
    whole = (path / "model.keras").read_bytes()
    (path / ".model.keras.crc").unlink()
    (path / "model.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PersistenceError, match=r"model\.keras is damaged"):
        DLModel.load(str(path))
    (path / "model.keras").unlink()
    with pytest.raises(PersistenceError, match=r"model\.keras does not exist"):
        DLModel.load(str(path))


def test_another_stage_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "assembler")
    VectorAssembler(inputCols=["a"], outputCol="b").save(path)
    with pytest.raises(PersistenceError, match=r"Got format None and class .*VectorAssembler"):
        DLModel.load(path)


def test_a_model_without_network_is_not_saved(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no network"):
        DLModel().save(str(tmp_path / "model"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, 10, 11, 25])
def test_files_travel_in_chunks(
    spark: SparkSession, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_files, "_CHUNK_BYTES", 10)
    data = bytes(range(256))[256 - size :]
    stage_files.write_bytes(spark, f"{tmp_path}/file", data)
    assert stage_files.read_bytes(spark, f"file://{tmp_path}/file") == data
    with pytest.raises(PersistenceError, match=r"Cannot write .*exists"):
        stage_files.write_bytes(spark, f"{tmp_path}/file", data)


def test_unknown_scheme(spark: SparkSession) -> None:
    with pytest.raises(PersistenceError, match=r"Cannot read nope://x/y: .*nope"):
        stage_files.read_bytes(spark, "nope://x/y")


def test_import_loads_no_framework() -> None:
    script = """
        import sys
        import spark_dlobd.estimators.model, spark_dlobd.estimators.persistence
        heavy = {"tensorflow", "keras", "horovod", "mlflow"} & set(sys.modules)
        sys.exit(str(heavy) if heavy else 0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_model_of_the_first_versions_gets_what_its_network_takes(
    spark: SparkSession, tmp_path: Path
) -> None:
    DLModel().setModel(id_network(), "classification").save(str(tmp_path / "new"))
    metadata = json.loads(
        "".join(row.value for row in spark.read.text(f"{tmp_path}/new/metadata").collect())
    )
    own = metadata["spark_dlobd"]
    for key in ("digest", "model_sha256"):
        del own[key]
    # They wrote in which type the rows of a Vector column had been stored.
    own["features"] = {"name": "features", "dtype": "float32", "shape": [1], "num_classes": None}
    old = tmp_path / "old"
    (old / "metadata").mkdir(parents=True)
    (old / "metadata" / "part-00000").write_text(json.dumps(metadata))
    shutil.copy(tmp_path / "new" / "model.keras", old)
    model = DLModel.load(str(old))
    rows = [(float(value), value % 4) for value in IDS]
    df = spark.createDataFrame(rows, "features double, label long")
    assert model.transform(df).select("prediction").count() == len(IDS)
    assert model.fitted().inputs[0].dtype == "int64"
