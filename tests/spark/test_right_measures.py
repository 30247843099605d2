"""What a fit measures and is steered by is there and means something, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dlobd import DLEstimator
from spark_dlobd.errors import ConfigurationError, DataError, DLError
from tests.spark.tiny import CLASSES, X, Y, estimator, linear

keras = pytest.importorskip("keras")

SPARSE = "sparse_categorical_crossentropy"
EarlyStopping = keras.callbacks.EarlyStopping


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rows = [
        ([float(v) for v in x], float(y), int(k), i > 5, np.eye(3)[k].tolist())
        for i, (x, y, k) in enumerate(zip(X, Y, CLASSES, strict=True))
    ]
    names = ["features", "label", "k", "held", "hot"]
    return spark.createDataFrame(rows, names).coalesce(2).cache()


@contextmanager
def no_spark_job(spark: SparkSession) -> Iterator[None]:
    scheduler = spark.sparkContext._jsc.sc().dagScheduler()
    before = scheduler.numTotalJobs()
    yield
    assert scheduler.numTotalJobs() == before


def classifier(**params: Any) -> DLEstimator:
    return estimator(linear(3, "softmax"), **{"loss": SPARSE, "labelCol": "k", **params})


@keras.saving.register_keras_serializable("right_measures")
class LargestError(keras.metrics.Metric):  # type: ignore[misc]
    """Says nothing of how the states of workers become one."""

    def __init__(self, name: str = "largest_error", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.largest = self.add_weight(initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        error = keras.ops.max(keras.ops.abs(y_true - y_pred))
        self.largest.assign(keras.ops.maximum(self.largest, error))

    def result(self) -> Any:
        return self.largest


def test_a_metric_that_does_not_say_how_it_merges(spark: SparkSession, table: DataFrame) -> None:
    settings = {"metrics": [LargestError()], "learningRate": 1e-12, "numTrainWorkers": 2}
    message = r"LargestError 'largest_error' does not say(.|\n)*def merge_state\(self, metrics\)"
    with no_spark_job(spark), pytest.raises(ConfigurationError, match=message):
        estimator(linear(), backend="shuffle", **settings).fit(table)
    # virtual workers have one state; the first weights are 0
    model = estimator(linear(), validationIndicatorCol="held", **settings).fit(table)
    assert model.history["largest_error"] == [np.abs(Y[:6]).max()]
    assert model.history["val_largest_error"] == [np.abs(Y[6:]).max()]


@pytest.mark.parametrize(
    ("callback", "says"),
    [
        (EarlyStopping(), r"monitor of EarlyStopping .*'loss', 'mae'\. Got 'val_loss'.*Fraction"),
        (keras.callbacks.ReduceLROnPlateau("mea"), r"of ReduceLROnPlateau .*'mae'\. Got 'mea'"),
    ],
)
def test_a_callback_that_waits_for_nothing(
    spark: SparkSession, table: DataFrame, callback: Any, says: str
) -> None:
    wrong = estimator(linear(), metrics=["mae"], callbacks=[callback])
    with no_spark_job(spark), pytest.raises(ConfigurationError, match=says):
        wrong.fit(table)


@keras.saving.register_keras_serializable("right_measures")
class Halved(keras.Sequential):  # type: ignore[misc]
    """Logs only half of its loss."""

    def train_step(self, data: Any) -> Any:
        return {"halved": super().train_step(data)["loss"] / 2}


@pytest.mark.parametrize("backend", ["local", "shuffle"])
def test_a_callback_that_waits_for_what_a_custom_step_does_not_log(
    table: DataFrame, backend: str
) -> None:
    net = Halved(linear().layers)
    net.build((None, 2))
    # the rate diverges, so patience=0 ends the training after two epochs
    settings = {"epochs": 5, "backend": backend}
    right = estimator(net, callbacks=[EarlyStopping("halved", patience=0, mode="min")], **settings)
    assert len(right.fit(table).history["halved"]) == 2
    with pytest.raises(DLError, match=r"of the training: 'halved'\. Got 'loss'"):
        estimator(net, callbacks=[EarlyStopping("loss")], **settings).fit(table)


def test_verbose_2_prints_a_line_an_epoch(
    table: DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    estimator(linear(), epochs=2, verbose=2).fit(table)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    assert [line.split(" - ")[:2] for line in lines] == [["Epoch 1/2", "1/1"], ["Epoch 2/2", "1/1"]]
    assert lines[0].endswith(f"loss: {(Y**2).mean():.4f}")
    estimator(linear(), epochs=2, verbose=0).fit(table)
    assert capsys.readouterr().out == ""


def test_weights_that_are_all_zero(spark: SparkSession, table: DataFrame) -> None:
    weighted = table.withColumn("w", F.lit(0.0)).withColumn("v", F.col("held").cast("int"))
    message = r"All 8 training rows have weight 0, by weight column 'w': nothing would be learned"
    with pytest.raises(DataError, match=message):
        estimator(linear(), weightCol="w").fit(weighted)
    held = {"validationIndicatorCol": "held"}
    with pytest.raises(DataError, match=r"All 6 training rows .*'v'"):
        estimator(linear(), weightCol="v", **held).fit(weighted)
    with pytest.raises(DataError, match=r"All 2 validation rows .*'v': val_loss would be 0"):
        other = weighted.withColumn("v", 1 - F.col("v"))
        estimator(linear(), weightCol="v", **held).fit(other)
    with pytest.raises(DataError, match=r"by classWeight=\{1: 0.0\} .*'k' holds only 1\)"):
        classifier(classWeight={1: 0.0}).fit(table.where("k = 1"))
    nothing = classifier(classWeight={0: 0.0, 1: 0.0, 2: 0.0})
    with no_spark_job(spark), pytest.raises(ConfigurationError, match="at least one of the 3 cl"):
        nothing.fit(table)


def test_rows_of_one_class_are_a_warning_in_the_report(table: DataFrame) -> None:
    assert classifier().fit(table).report["warnings"] == []
    [warning] = classifier().fit(table.where("k = 2")).report["warnings"]
    assert warning.startswith("All 3 training rows have the class 2 in label column 'k'")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"loss": "mean_sqared_error"}, r"Did you mean 'mean_squared_error'\?"),
        ({"loss": "sparse_categorial_crossentropy"}, r"mean 'sparse_categorical_crossentropy'\?"),
        ({"loss": "right_measure"}, r"Got 'right_measure'\.$"),
        ({"loss": "halve"}, r"Got 'halve'\.$"),
        ({"optimizer": "adm"}, r"Did you mean 'adam'\?"),
        ({"optimizer": "sdg"}, r"Did you mean 'sgd'\?"),
        ({"metrics": ["acuracy"]}, r"Did you mean 'accuracy'\?"),
        ({"metrics": ["mae", "f1score"]}, r"Did you mean 'f1_score'\?"),
        ({"metrics": ["largest_eror"]}, r"Did you mean 'right_measures>LargestError'\?"),
        ({"metrics": ["MeanIoU"]}, r"metrics must be an object .*'MeanIoU': .*num_classes"),
        (
            {"loss": "categorical_crossentropy"},
            r"'k' must hold one-hot rows of 3 elements\. Got bigint.*='sparse_categorical_crosse",
        ),
        (
            {"loss": keras.losses.CategoricalCrossentropy()},
            r"'k' must hold one-hot rows.*loss='sparse_categorical_crossentropy'",
        ),
        (
            {"labelCol": "hot"},
            r"'hot' must hold a class index per row\. Got array.*='categorical_crossentropy'",
        ),
    ],
)
def test_the_right_name_is_suggested(
    spark: SparkSession, table: DataFrame, params: dict[str, Any], message: str
) -> None:
    wrong = classifier(**params)
    with no_spark_job(spark), pytest.raises(ConfigurationError, match=message):
        wrong.fit(table)
