"""A network of keras.applications: its head first, then all of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_dlobd import DLEstimator, DLModel
from spark_dlobd.errors import ModelError


@pytest.fixture(scope="module")
def photos(spark: SparkSession) -> DataFrame:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    rows = [(image.tobytes(), i % 2) for i, image in enumerate(images)]
    return spark.createDataFrame(rows, "image binary, label int").coalesce(2).cache()


def network() -> Any:
    keras.utils.set_random_seed(0)
    base = keras.applications.MobileNetV2(
        input_shape=(32, 32, 3), include_top=False, weights=None, pooling="avg", alpha=0.35
    )
    base.trainable = False
    image = keras.Input((32, 32, 3))
    features = base(keras.layers.Rescaling(1 / 127.5, -1)(image))
    return keras.Model(image, keras.layers.Dense(2, "softmax")(features))


def fit(df: DataFrame, model: Any) -> DLModel:
    return DLEstimator(
        model=model,
        featuresCol="image",
        loss="sparse_categorical_crossentropy",
        batchSize=8,
        backend="local",
        tracking="none",
        verbose=0,
    ).fit(df)


def base_of(model: Any) -> Any:
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def test_the_head_first_and_then_the_base(photos: DataFrame) -> None:
    start = network()
    first = fit(photos, start)
    trained = first.getKerasModel()
    for old, new in zip(base_of(start).get_weights(), base_of(trained).get_weights(), strict=True):
        assert old.tobytes() == new.tobytes()
    assert (start.get_weights()[-2] != trained.get_weights()[-2]).any()

    base_of(trained).trainable = True
    second = fit(photos, first.copy().setModel(trained))
    tuned = base_of(second.getKerasModel())
    moved = [v for v in tuned.weights if "moving_mean" in v.path]
    assert len(moved) > 40
    assert all(np.any(np.asarray(variable)) for variable in moved)
    assert second.transform(photos).filter("probability IS NOT NULL").count() == 16
    assert first.hasSummary and second.numClasses == 2


def test_layers_that_were_frozen_after_the_model_was_made(photos: DataFrame) -> None:
    model = network()
    model.layers[-1].kernel.trainable = False
    with pytest.raises(ModelError, match=r"would train other weights.*kernel"):
        fit(photos, model)
