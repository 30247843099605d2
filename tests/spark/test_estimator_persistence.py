from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import StringIndexer, VectorAssembler
from pyspark.sql import DataFrame, SparkSession

from spark_dlobd import DLEstimator, DLModel, HorovodConfig, LocalConfig
from spark_dlobd.errors import ConfigurationError, ModelError, PersistenceError
from tests.spark.tiny import CLASSES, X, Y, estimator, linear, squares_step, weights

keras = pytest.importorskip("keras")


@keras.saving.register_keras_serializable("persistence")
class Doubling(keras.layers.Layer):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        return 2 * inputs


@keras.saving.register_keras_serializable("persistence")
def halved_squares(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean((y_pred - y_true) ** 2, axis=-1) / 2


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rows = [
        (i, [float(v) for v in x], float(x[0]), float(x[1]), float(y), "abc"[k])
        for i, (x, y, k) in enumerate(zip(X, Y, CLASSES, strict=True))
    ]
    names = ["id", "features", "a", "b", "label", "name"]
    return spark.createDataFrame(rows, names).coalesce(2).cache()


def predictions(model: Any, df: DataFrame) -> list[float]:
    return [row.prediction for row in model.transform(df).orderBy("id").collect()]


def values(stage: Any) -> dict[str, Any]:
    return {param.name: value for param, value in stage.extractParamMap().items()}


def test_an_estimator_keeps_every_param(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    decay = keras.optimizers.schedules.CosineDecay(0.1, 10)
    est = estimator(
        linear(),
        featuresCol="x",
        labelCol="y",
        weightCol="w",
        validationFraction=0.25,
        predictionCol="p",
        probabilityCol="",
        thresholds=[0.3, 0.7],
        loss=keras.losses.Huber(delta=0.5),
        optimizer=keras.optimizers.Adam(decay, beta_1=0.7),
        metrics=["mae", keras.metrics.RootMeanSquaredError(name="root")],
        learningRate=None,
        numTrainWorkers=2,
        epochs=3,
        backend=HorovodConfig(mpi_args=("-x", "A"), controller="mpi", start_timeout_s=7),
        shuffle=False,
        classWeight={0: 1.0, 1: 2.5},
        handleInvalid="skip",
        seed=9,
        cacheDir="file:///tmp",
        problemType="regression",
        predictBatchSize=17,
        callbacks=[keras.callbacks.TerminateOnNaN()],
        transformation=keras.layers.RandomFlip(),
    )
    with caplog.at_level(logging.WARNING, "spark_dlobd"):
        est.save(str(tmp_path / "est"))
    assert "these are live objects: callbacks, transformation. Set them again" in caplog.text
    loaded = DLEstimator.load(str(tmp_path / "est"))
    assert loaded.uid == est.uid
    assert values(loaded) == values(est)
    assert loaded.getBackend() == est.getBackend()
    assert loaded.getClassWeight() == {0: 1.0, 1: 2.5}
    assert loaded.callbacks == () and loaded.tracker is None and loaded.transformation is None
    json.dumps(values(loaded))


def test_an_estimator_trains_alike_after_loading(table: DataFrame, tmp_path: Path) -> None:
    optimizer = keras.optimizers.SGD(0.01, momentum=0.5)
    est = estimator(linear(), optimizer=optimizer, learningRate=None, epochs=2)
    est.save(str(tmp_path / "est"))
    loaded = DLEstimator.load(str(tmp_path / "est"))
    kernel = weights(est.fit(table))
    np.testing.assert_array_equal(weights(loaded.fit(table)), kernel)
    assert np.abs(kernel - 0.01 * squares_step(X, Y)).max() > 0.01


def test_what_the_model_was_compiled_with_is_kept(table: DataFrame, tmp_path: Path) -> None:
    net = linear()
    net.compile(keras.optimizers.SGD(0.02), "mse", metrics=["mae"], steps_per_execution=2)
    est = DLEstimator(model=net, backend=LocalConfig(), batchSize=4, tracking="none", verbose=0)
    est.save(str(tmp_path / "est"))
    loaded = DLEstimator.load(str(tmp_path / "est"))
    assert loaded.getModel().steps_per_execution == 2
    model = loaded.fit(table)
    assert set(model.history) == {"loss", "mae"}
    np.testing.assert_array_equal(weights(model), weights(est.fit(table)))


def test_an_estimator_without_a_model(table: DataFrame, tmp_path: Path) -> None:
    DLEstimator(tracking="none", epochs=4).save(str(tmp_path / "est"))
    loaded = DLEstimator.load(str(tmp_path / "est"))
    assert loaded.getEpochs() == 4
    with pytest.raises(ConfigurationError, match=r"model must be a built keras\.Model\. Got None"):
        loaded.fit(table)


def test_a_path_that_is_taken(tmp_path: Path) -> None:
    path = str(tmp_path / "est")
    estimator(linear(), epochs=2).save(path)
    with pytest.raises(Exception, match="already exists"):
        estimator(linear()).save(path)
    assert DLEstimator.load(path).getEpochs() == 2
    estimator(linear(), epochs=5).write().overwrite().save(path)
    assert DLEstimator.load(path).getEpochs() == 5


def test_a_pipeline_and_its_model(table: DataFrame, tmp_path: Path) -> None:
    stages = [
        StringIndexer(inputCol="name", outputCol="index"),
        VectorAssembler(inputCols=["a", "b"], outputCol="both"),
        estimator(
            linear(3, "softmax"),
            featuresCol="both",
            labelCol="index",
            loss="sparse_categorical_crossentropy",
            epochs=2,
            validationFraction=0.2,
        ),
    ]
    pipeline = Pipeline(stages=stages)
    pipeline.save(str(tmp_path / "pipeline"))
    model = pipeline.fit(table)
    model.save(str(tmp_path / "model"))
    expected = predictions(model, table)

    loaded = PipelineModel.load(str(tmp_path / "model"))
    assert predictions(loaded, table) == expected
    last, again = model.stages[-1], loaded.stages[-1]
    assert isinstance(again, DLModel)
    assert again.history == last.history and set(again.history) == {"loss", "val_loss"}
    assert again.report == last.report
    assert values(again) == values(last)
    assert again.getKerasModel().optimizer.learning_rate.numpy() == 1.0

    refitted = Pipeline.load(str(tmp_path / "pipeline")).fit(table)
    assert predictions(refitted, table) == expected


def test_custom_objects(table: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = keras.Sequential([keras.Input((2,)), Doubling(), linear().layers[-1]])
    est = estimator(net, loss=halved_squares, metrics=[halved_squares])
    model = est.fit(table)
    # Twice the features give half the gradient of the halved loss, and count twice.
    np.testing.assert_allclose(weights(model), squares_step(X, Y), rtol=1e-5)
    est.save(str(tmp_path / "est"))
    model.save(str(tmp_path / "model"))
    loaded = DLEstimator.load(str(tmp_path / "est"))
    np.testing.assert_array_equal(weights(loaded.fit(table)), weights(model))
    assert predictions(DLModel.load(str(tmp_path / "model")), table) == predictions(model, table)

    registry = keras.saving.get_custom_objects()
    for name in [name for name in registry if name.startswith("persistence>")]:
        monkeypatch.delitem(registry, name)
    message = r"custom objects that are not registered .*'persistence>Doubling'.*import the module"
    for kind, path in ((DLEstimator, "est"), (DLModel, "model")):
        with pytest.raises(PersistenceError, match=message):
            kind.load(str(tmp_path / path))


def test_a_loss_param_that_is_not_registered_on_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "est")
    estimator(linear(), loss=halved_squares).save(path)
    registry = keras.saving.get_custom_objects()
    monkeypatch.delitem(registry, "persistence>halved_squares")
    with pytest.raises(PersistenceError, match=r"not registered .*'persistence>halved_squares'"):
        DLEstimator.load(path)


def test_lambdas_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    net = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x)])
    with pytest.raises(ModelError, match="lambda"):
        estimator(net)
    with pytest.raises(ModelError, match="lambda"):
        estimator(linear(), loss=lambda y, p: p)


@pytest.mark.parametrize("name", ["metadata", "model.keras"])
def test_a_file_that_is_gone(tmp_path: Path, name: str) -> None:
    import shutil

    path = tmp_path / "est"
    estimator(linear()).save(str(path))
    if name == "metadata":
        shutil.rmtree(path / name)
    else:
        (path / name).unlink()
    with pytest.raises(Exception, match=r"model\.keras does not exist|metadata") as caught:
        DLEstimator.load(str(path))
    if name == "model.keras":
        assert isinstance(caught.value, PersistenceError)
