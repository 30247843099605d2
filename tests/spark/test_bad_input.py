from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dlobd import DLEstimator
from spark_dlobd.errors import (
    ConfigurationError,
    DataError,
    ModelError,
    NonFiniteLossError,
    ResourceError,
    WorkerError,
)
from tests.spark.tiny import CLASSES, X, Y, estimator, linear

keras = pytest.importorskip("keras")

CROSSENTROPY = "sparse_categorical_crossentropy"


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("spark-dlobd")] == []


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rows = [
        (i, Vectors.dense(x), [float(v) for v in x], float(y), int(k), 1.0, i > 5, "abc"[k])
        for i, (x, y, k) in enumerate(zip(X, Y, CLASSES, strict=True))
    ]
    names = ["id", "features", "array", "y", "k", "weight", "held", "name"]
    return spark.createDataFrame(rows, names).coalesce(2).cache()


@contextmanager
def no_spark_job(spark: SparkSession) -> Iterator[None]:
    scheduler = spark.sparkContext._jsc.sc().dagScheduler()
    before = scheduler.numTotalJobs()
    yield
    assert scheduler.numTotalJobs() == before


def classifier(**params: Any) -> DLEstimator:
    return estimator(linear(3, "softmax"), **{"loss": CROSSENTROPY, "labelCol": "k", **params})


def regressor(**params: Any) -> DLEstimator:
    return estimator(linear(), **{"labelCol": "y", **params})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"featuresCol": "x"}, r"feature column 'x' is not in the DataFrame. Available .*'array'"),
        ({"labelCol": "Y"}, r"label column 'Y' is not in the DataFrame. Available .*'y'"),
        ({"weightCol": "w"}, r"weight column 'w' is not in the DataFrame"),
        ({"validationIndicatorCol": "v"}, r"validation indicator column 'v' is not in the DataFr"),
        ({"labelCol": "features"}, r"labelCol and featuresCol must name different columns"),
        ({"weightCol": "y"}, r"weightCol and labelCol must name different columns"),
        ({"predictionCol": "y"}, r"predictionCol and labelCol must name different columns"),
        ({"probabilityCol": "prediction"}, r"probabilityCol and predictionCol must name diff"),
        ({"labelCol": "name"}, r"label column 'name' must be numeric. Got string: .*StringIndexer"),
        ({"featuresCol": "name"}, r"feature column 'name' must be a number.*Got string.*Index"),
        ({"weightCol": "name"}, r"weight column 'name' must be numeric. Got string"),
        ({"validationIndicatorCol": "name"}, r"'name' must be boolean, or a number.*Got string"),
        ({"featuresCol": "id"}, r"'id' holds one number per row, the model expects shape \(2,\)"),
        ({"batchSize": 2, "numTrainWorkers": 3}, r"batchSize must be at least numTrainWorkers"),
        (
            {"validationFraction": 0.5, "validationIndicatorCol": "held"},
            r"validationFraction and validationIndicatorCol exclude each other",
        ),
        (
            {"classWeight": {0: 1.0}},
            r"classWeight needs a classification. Got \{0: 1.0\}.*weightCol",
        ),
        ({"thresholds": [0.5, 0.5]}, r"thresholds must have one value per class.*regression"),
        ({"loss": "mean_sqared_error"}, r"loss must name something Keras knows.*mean_sqared_error"),
        (
            {"optimizer": {"class_name": "SDG", "config": {}}},
            r"optimizer must be a config that Keras can make .*'SDG'.*Could not interpret",
        ),
        (
            {"loss": {"module": "keras.losses", "class_name": "Mean", "config": {}}},
            r"cannot be compiled with its loss, optimizer and metrics: .*Mean",
        ),
        ({"optimizer": "sdg"}, r"optimizer must name something Keras knows.*'sdg'"),
        ({"metrics": ["acuracy"]}, r"metrics must name something Keras knows.*'acuracy'"),
        ({"backend": "spark"}, r"backend must be 'auto', one of .*'local'.* Got 'spark'\."),
        ({"cacheDir": "/proc/nowhere"}, r"cacheDir must be a directory that can be written"),
        ({"cacheDir": "warehouse://x/y"}, r"cacheDir must be a directory .*warehouse"),
    ],
)
def test_settings_are_checked_before_any_job(
    spark: SparkSession, table: DataFrame, params: dict[str, Any], message: str
) -> None:
    wrong = regressor(**params)
    with no_spark_job(spark), pytest.raises(ConfigurationError, match=message):
        wrong.fit(table)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"classWeight": {3: 1.0}}, r"classWeight must name classes .*0 to 2\. Got \{3: 1.0\}"),
        ({"thresholds": [0.5, 0.5]}, r"thresholds must have one value per class \(3\)"),
        ({"labelCol": "features", "featuresCol": "array"}, r"must hold a class index per row"),
    ],
)
def test_settings_of_a_classifier(
    spark: SparkSession, table: DataFrame, params: dict[str, Any], message: str
) -> None:
    wrong = classifier(**params)
    with no_spark_job(spark), pytest.raises(ConfigurationError, match=message):
        wrong.fit(table)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"batchSize": 0}, r"batchSize must be an int of at least 1\. Got 0\."),
        ({"batchSize": -1}, r"batchSize must be an int of at least 1\. Got -1\."),
        ({"batchSize": "a"}, r"batchSize must be an int of at least 1\. Got 'a'\."),
        ({"batchSize": True}, r"batchSize must be an int of at least 1\. Got True\."),
        ({"epochs": 0}, r"epochs must be an int of at least 1\. Got 0\."),
        (
            {"validationFraction": 1.0},
            r"validationFraction must be a float of at least 0 and below 1\. Got 1",
        ),
        ({"seed": -1}, r"seed must be an int from 0 to \d+\. Got -1\."),
        ({"backend": 3}, r"backend must be 'auto', one of .*'local'.* Got 3 of type int\."),
        (
            {"backend": {"name": "horovod", "speed": 3}},
            r"HorovodConfig has no option speed\. Its options are .*controller",
        ),
        ({"callbacks": [print]}, r"callbacks must be a sequence of keras.callbacks.Callback"),
        ({"callbacks": 3}, r"callbacks must be a sequence of keras.callbacks.Callback.* Got 3"),
    ],
)
def test_values_are_checked_when_they_are_set(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DLEstimator(**params)


class Locked(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_callbacks_that_cannot_be_copied(spark: SparkSession, table: DataFrame) -> None:
    message = r"callbacks must be copyable.*Locked.*cannot pickle.*on_train_begin"
    with no_spark_job(spark), pytest.raises(ConfigurationError, match=message):
        regressor(callbacks=[Locked()]).fit(table)


def test_values_of_a_param_map_are_checked(table: DataFrame) -> None:
    wrong = regressor()
    with pytest.raises(ConfigurationError, match=r"epochs must be an int of at least 1\. Got 0"):
        wrong.fit(table, {wrong.epochs: 0})


def test_ambiguous_columns(spark: SparkSession, table: DataFrame) -> None:
    twice = table.select("features", "y", F.col("k").alias("Y"))
    with (
        no_spark_job(spark),
        pytest.raises(ConfigurationError, match=r"'y' is ambiguous.*'y', 'Y'"),
    ):
        regressor().fit(twice)


def test_widths_that_are_known_are_compared_before_any_job(
    spark: SparkSession, table: DataFrame
) -> None:
    wide = VectorAssembler(inputCols=["k", "y", "id"], outputCol="wide").transform(table)
    message = r"vectors of shape \(3,\) per row, the model expects shape \(2,\)"
    with no_spark_job(spark), pytest.raises(ConfigurationError, match=message):
        regressor(featuresCol="wide", labelCol="weight").fit(wide)


def test_not_a_spark_data_frame(table: DataFrame) -> None:
    message = r"dataset must be a pyspark.sql.DataFrame. Got pandas"
    with pytest.raises(ConfigurationError, match=message):
        regressor().fit(table.toPandas())


class Unregistered(keras.layers.Layer):  # type: ignore[misc]
    pass


def test_models_that_cannot_be_trained(spark: SparkSession, table: DataFrame) -> None:
    with no_spark_job(spark):
        with pytest.raises(
            ConfigurationError, match=r"model must be a built keras.Model. Got None"
        ):
            DLEstimator(tracking="none", loss="mse").fit(table)
        with pytest.raises(
            ModelError, match=r"model must be a keras.Model .* Got 3 of type builtins.int\.$"
        ):
            DLEstimator(model=3)
        with pytest.raises(ModelError, match=r"'lazy' is not built.* keras.Input"):
            DLEstimator(model=keras.Sequential([keras.layers.Dense(1)], name="lazy"))
        with pytest.raises(ModelError, match=r"not registered.*Unregistered.*register_keras_seri"):
            DLEstimator(model=keras.Sequential([keras.Input((2,)), Unregistered()]))
        with pytest.raises(ModelError, match=r"lambda.*refused"):
            DLEstimator(
                model=keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x)])
            )
        with pytest.raises(ConfigurationError, match=r"loss must be given"):
            DLEstimator(model=linear(), labelCol="y", tracking="none").fit(table)


def test_a_sum_over_rows_has_no_meaning_for_several_workers(table: DataFrame) -> None:
    loss = keras.losses.MeanSquaredError(reduction="sum")
    with pytest.raises(ConfigurationError, match=r"reduction='sum'.*sum_over_batch_size"):
        regressor(loss=loss, numTrainWorkers=2).fit(table)


def test_more_workers_than_slots(spark: SparkSession, table: DataFrame) -> None:
    pytest.importorskip("horovod")
    wrong = regressor(backend="horovod", numTrainWorkers=3)
    started = time.monotonic()
    message = r"numTrainWorkers=3 needs 3 slots at the same time, but local\[2\] offers 2"
    with no_spark_job(spark), pytest.raises(ResourceError, match=message):
        wrong.fit(table)
    assert time.monotonic() - started < 20  # of the 600 a start may take


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("k - 1", r"'k' \(label\): 3 outside the classes \(expected 0 to 2 .* seen -1 to -1\)"),
        ("k + 0.5", r"'k' \(label\): 8 not a whole number"),
        ("k + 1", r"'k' \(label\): 3 outside the classes .*seen 3 to 3\)(.|\n)*StringIndexer"),
        ("k * 2", r"'k' \(label\): 3 outside the classes \(expected 0 to 2 for 3 .* 4 to 4\)"),
        ("if(id < 2, null, k)", r"2 of 8 rows are not valid:\n  'k' \(label\): 2 null\n"),
        ("if(id = 2, double('nan'), k)", r"1 of 8 rows is not valid:\n.*1 NaN or infinite"),
    ],
)
def test_labels_of_a_classifier(table: DataFrame, expression: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        classifier().fit(table.withColumn("k", F.expr(expression)))


@pytest.mark.parametrize(
    ("column", "expression", "message"),
    [
        ("y", "if(id < 3, null, y)", r"'y' \(label\): 3 null"),
        ("y", "if(id < 3, double('inf'), y)", r"'y' \(label\): 3 NaN or infinite"),
        ("array", "if(id < 4, null, array)", r"'array' \(features\): 4 null"),
        ("array", "if(id < 4, array(1, null), array)", r"\(features\): 4 null inside the array"),
        ("array", "if(id < 5, array(1, double('nan')), array)", r"\(features\): 5 NaN or infinite"),
        (
            "array",
            "if(id < 6, array(1, 2, 3), array)",
            r"6 wrong length \(expected 2 elements for shape \(2,\), seen 3\)",
        ),
        ("weight", "if(id < 2, null, weight)", r"'weight' \(weight\): 2 null"),
        ("weight", "if(id < 2, -1, weight)", r"'weight' \(weight\): 2 negative"),
        ("held", "if(id < 2, null, held)", r"'held' \(indicator\): 2 null"),
        ("held", "if(id < 2, 2, int(held))", r"'held' \(indicator\): 2 neither 0 nor 1"),
        (
            "held",
            "if(id < 1, double('nan'), double(held))",
            r"'held' \(indicator\): 1 neither 0 nor 1",
        ),
    ],
)
def test_rows_that_cannot_be_trained_on(
    table: DataFrame, column: str, expression: str, message: str
) -> None:
    wrong = regressor(featuresCol="array", weightCol="weight", validationIndicatorCol="held")
    with pytest.raises(DataError, match=message):
        wrong.fit(table.withColumn(column, F.expr(expression)))


def test_several_labels_for_one_unit(table: DataFrame) -> None:
    message = (
        r"'array' \(label\): 8 wrong length \(expected 1 element for shape \(\), seen 2\)\n"
        r"End the network with keras.layers.Dense\(2\), or give 'array' 1 element a row"
    )
    with pytest.raises(DataError, match=message):
        regressor(labelCol="array").fit(table)


def test_vectors_of_mixed_length(spark: SparkSession) -> None:
    rows = [(Vectors.dense(range(1 + i % 3)), 1.0) for i in range(9)]
    df = spark.createDataFrame(rows, ["features", "label"])
    message = r"6 wrong length \(expected 2 elements for shape \(2,\), seen 1, 3\)"
    with pytest.raises(DataError, match=message):
        estimator(linear()).fit(df)


def test_one_hot_labels_of_another_width(table: DataFrame) -> None:
    wrong = classifier(loss="categorical_crossentropy", labelCol="array")
    with pytest.raises(DataError, match=r"'array' \(label\): 8 wrong length \(expected 3 elements"):
        wrong.fit(table)


@pytest.mark.parametrize(
    ("rows", "params", "message"),
    [
        (0, {}, r"The DataFrame has no rows"),
        (2, {"numTrainWorkers": 3}, r"The train split has 2 rows for 3 workers"),
        (3, {"validationFraction": 1e-9}, r"validation split has no rows.*1e-09 is too small"),
    ],
)
def test_too_few_rows(table: DataFrame, rows: int, params: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        regressor(**params).fit(table.where(F.col("id") < rows))


def test_output_columns_that_exist_already(table: DataFrame) -> None:
    model = regressor(predictionCol="name").fit(table.drop("name"))
    with pytest.raises(ConfigurationError, match=r"Output column 'name' already exists"):
        model.transform(table)


def test_a_source_that_fails(table: DataFrame) -> None:
    broken = table.withColumn("y", F.expr("raise_error('the source is broken')").cast("double"))
    with pytest.raises(Exception, match="the source is broken"):
        regressor().fit(broken)


@keras.saving.register_keras_serializable("bad_input")
class Infinite(keras.losses.Loss):  # type: ignore[misc]
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return y_pred[:, 0] + float("inf")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_loss_that_is_not_finite(table: DataFrame, workers: int) -> None:
    # Two rows a step: the first makes the weights huge, the second the loss infinite.
    wrong = regressor(learningRate=1e30, batchSize=2, numTrainWorkers=workers)
    with pytest.raises(NonFiniteLossError, match=r"Rank 0 .*epoch 0, step 1\. Lower the lear") as e:
        wrong.fit(table)
    assert e.value.rank == 0
    with pytest.raises(NonFiniteLossError, match=r"loss became inf in epoch 0, step 0\."):
        regressor(loss=Infinite(), numTrainWorkers=workers).fit(table)


class Failing(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        raise self._error


def test_an_error_in_a_callback(table: DataFrame) -> None:
    wrong = regressor(callbacks=[Failing(KeyError("lost"))])
    with pytest.raises(
        WorkerError, match=r"Rank 0 on .* failed in phase 'train epoch 0( step 0)?'"
    ) as caught:
        wrong.fit(table)
    assert "KeyError: 'lost'" in str(caught.value)
    assert "in on_train_batch_end\n    raise self._error" in caught.value.worker_traceback


def test_ctrl_c_leaves_nothing(table: DataFrame) -> None:
    with pytest.raises(KeyboardInterrupt):
        regressor(callbacks=[Failing(KeyboardInterrupt())]).fit(table)


@keras.saving.register_keras_serializable("bad_input")
class Careless(keras.Sequential):  # type: ignore[misc]
    def train_step(self, data: Any) -> Any:
        x, _ = data
        return {"loss": self.nothing_of_that_name(x)}


def test_an_error_in_a_train_step(table: DataFrame) -> None:
    wrong = estimator(Careless([keras.Input((2,)), keras.layers.Dense(1)]), labelCol="y")
    with pytest.raises(WorkerError, match="nothing_of_that_name") as caught:
        wrong.fit(table)
    assert "in train_step" in caught.value.worker_traceback


def test_a_failed_fit_can_be_repeated(table: DataFrame) -> None:
    fit = regressor(callbacks=[Failing(KeyError("lost"))])
    before: list[AbstractContextManager[Any]] = [pytest.raises(WorkerError), nullcontext()]
    for expectation in before:
        with expectation:
            fit.fit(table)
        fit.callbacks = ()
    assert np.isfinite(fit.fit(table).history["loss"]).all()
