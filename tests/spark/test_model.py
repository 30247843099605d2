from __future__ import annotations

import copy
import functools
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark import TaskContext
from pyspark.errors import SparkRuntimeException
from pyspark.ml.feature import IndexToString, StringIndexer
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import DenseVector, SparseVector, Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dlobd.data.columns import feature_column, label_column
from spark_dlobd.data.materialize import first_rows
from spark_dlobd.errors import ConfigurationError, DataError, ModelError
from spark_dlobd.estimators.model import DLModel
from spark_dlobd.estimators.network import FittedNetwork, FittedOutput
from spark_dlobd.job.columns import ColumnSpec, TensorColumn
from spark_dlobd.job.network import Network, OutputSpec

keras = pytest.importorskip("keras")

WEIGHTS = np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]], "float32")


def dense(units: int, activation: str | None, weights: Any, shape: tuple[int, ...] = (2,)) -> Any:
    layers = [keras.Input(shape)] + ([keras.layers.Flatten()] if len(shape) > 1 else [])
    model = keras.Sequential([*layers, keras.layers.Dense(units, activation, use_bias=False)])
    model.set_weights([np.asarray(weights, "float32")])
    return model


@functools.cache
def scorer(kind: str) -> DLModel:
    """One network for many tests: workers build it once."""
    if kind == "softmax":
        return DLModel().setModel(dense(3, "softmax", WEIGHTS), "classification")
    return DLModel().setModel(dense(1, None, [[1.0], [10.0]]))


def softmax_model(**kwargs: Any) -> DLModel:
    return scorer("softmax").copy()._set(**kwargs)


def sum_model(**kwargs: Any) -> DLModel:
    return scorer("sum").copy()._set(**kwargs)


@pytest.fixture(scope="module")
def arrays(spark: SparkSession) -> DataFrame:
    rows = [
        (
            i,
            [float(i), float(i % 3)],
        )
        for i in range(10)
    ]
    return spark.createDataFrame(rows, "id long, features array<double>").repartition(3)


def predictions(df: DataFrame) -> list[float]:
    return [row.prediction for row in df.orderBy("id").select("prediction").collect()]


def test_vectors_straight_from_a_file(
    spark: SparkSession, arrays: DataFrame, tmp_path: Path
) -> None:
    """Spark 4.3 fails at it with every Python UDF."""
    path = str(tmp_path / "vectors")
    arrays.withColumn("features", array_to_vector("features")).write.parquet(path)
    scored = sum_model().transform(spark.read.parquet(path))
    assert predictions(scored) == [i + 10.0 * (i % 3) for i in range(10)]


def test_classification_outputs(arrays: DataFrame) -> None:
    row = softmax_model().transform(arrays).filter("id = 2").first()
    assert row is not None
    logits = np.array([2.0, 4.0, -2.0])
    expected = np.exp(logits) / np.exp(logits).sum()
    assert isinstance(row.probability, DenseVector) and isinstance(row.prediction, float)
    np.testing.assert_allclose(row.probability.toArray(), expected, rtol=1e-5)
    np.testing.assert_allclose(row.rawPrediction.toArray(), np.log(expected), rtol=1e-5)
    assert row.prediction == 1.0


@pytest.mark.parametrize(
    ("type_", "convert"),
    [
        ("array<float>", list),
        ("array<double>", list),
        ("array<int>", lambda v: [int(x) for x in v]),
        ("array<tinyint>", lambda v: [int(x) for x in v]),
        ("array<decimal(10,2)>", lambda v: [Decimal(x) for x in v]),
        ("binary", lambda v: bytearray(int(x) for x in v)),
    ],
)
def test_every_type_of_features(spark: SparkSession, type_: str, convert: Any) -> None:
    rows = [(i, convert([float(i), 2.0])) for i in range(5)]
    df = spark.createDataFrame(rows, f"id long, features {type_}")
    assert predictions(sum_model().transform(df)) == [20.0, 21.0, 22.0, 23.0, 24.0]


def test_decimals_vectors_and_scalars(spark: SparkSession, arrays: DataFrame) -> None:
    expected = [i + 10.0 * (i % 3) for i in range(10)]
    decimals = arrays.withColumn("features", F.col("features").cast("array<decimal(10,2)>"))
    assert predictions(sum_model().transform(decimals)) == expected
    rows = [(0, Vectors.dense(1, 2)), (1, SparseVector(2, {1: 3.0})), (2, SparseVector(2, {}))]
    vectors = spark.createDataFrame(rows, ["id", "features"])
    assert predictions(sum_model().transform(vectors)) == [21.0, 30.0, 0.0]
    one = DLModel(featuresCol="id").setModel(dense(1, None, [[3.0]], (1,)))
    assert predictions(one.transform(arrays)) == [3.0 * i for i in range(10)]


def test_images_are_reshaped(spark: SparkSession) -> None:
    pixels = bytearray(range(8))
    df = spark.createDataFrame([(0, pixels)], "id long, features binary")
    model = DLModel().setModel(dense(1, None, [[1.0]] * 8, (2, 2, 2)))
    assert predictions(model.transform(df)) == [28.0]


def test_binary_with_one_unit(arrays: DataFrame) -> None:
    model = DLModel().setModel(dense(1, "sigmoid", [[1.0], [-3.0]]), "classification")
    row = model.transform(arrays).filter("id = 1").first()
    assert row is not None
    positive = 1 / (1 + np.exp(2.0))
    np.testing.assert_allclose(row.probability.toArray(), [1 - positive, positive], rtol=1e-5)
    np.testing.assert_allclose(row.rawPrediction.toArray(), [2.0, -2.0], rtol=1e-5)
    assert row.prediction == 0.0
    assert model.numClasses == 2


def test_regression_has_one_column(arrays: DataFrame) -> None:
    result = sum_model().transform(arrays)
    assert result.columns == ["id", "features", "prediction"]
    assert dict(result.dtypes)["prediction"] == "double"


def test_several_outputs_are_an_array(arrays: DataFrame) -> None:
    result = DLModel().setModel(dense(3, None, WEIGHTS)).transform(arrays)
    assert dict(result.dtypes)["prediction"] == "array<double>"
    assert predictions(result)[2] == [2.0, 4.0, -2.0]


def test_more_classes_than_are_spread_over_columns(arrays: DataFrame) -> None:
    weights = np.zeros((2, 101), "float32")
    weights[0, 100] = 1.0
    result = DLModel().setModel(dense(101, "softmax", weights), "classification").transform(arrays)
    row = result.filter("id = 9").first()
    assert row is not None
    expected = np.exp(9.0) / (np.exp(9.0) + 100)
    assert row.probability.toArray()[100] == pytest.approx(expected, rel=1e-5)
    assert (len(row.rawPrediction), row.prediction) == (101, 100.0)


def test_thresholds(arrays: DataFrame) -> None:
    model = softmax_model(thresholds=[1.0, 1.0, 0.0])
    assert set(predictions(model.transform(arrays))) == {2.0}
    with pytest.raises(ConfigurationError, match=r"one value per class \(3\)\. Got \[0\.5, 0\.5\]"):
        softmax_model(thresholds=[0.5, 0.5]).transform(arrays)
    with pytest.raises(ConfigurationError, match="a regression has none"):
        sum_model(thresholds=[0.5, 0.5]).transform(arrays)


def test_columns_can_be_left_out(arrays: DataFrame) -> None:
    model = softmax_model(probabilityCol="", rawPredictionCol="")
    assert model.transform(arrays).columns == ["id", "features", "prediction"]
    nothing = softmax_model(predictionCol="", probabilityCol="", rawPredictionCol="")
    assert nothing.transform(arrays).columns == ["id", "features"]


def test_wrong_columns(arrays: DataFrame) -> None:
    with pytest.raises(ConfigurationError, match=r"'x' is not in the DataFrame.* 'id', 'features'"):
        sum_model(featuresCol="x").transform(arrays)
    with pytest.raises(ConfigurationError, match="Output column 'id' already exists"):
        sum_model(predictionCol="id").transform(arrays)
    text = arrays.withColumn("features", F.lit("a"))
    with pytest.raises(ConfigurationError, match=r"must be a number, an array of.*Got string"):
        sum_model().transform(text)
    with pytest.raises(ConfigurationError, match="holds no network"):
        DLModel().transform(arrays)


def test_rows_that_cannot_be_used(spark: SparkSession) -> None:
    values = [[1.0, 1.0], None, [1.0], [1.0, None], [1.0, float("nan")], [2.0, 2.0]]
    df = spark.createDataFrame(list(enumerate(values)), "id long, features array<double>")
    message = (
        r"4 of 6 rows of this batch are not valid:\n  'features' \(features\): 1 null\n"
        r"  'features' \(features\): 2 NaN or infinite\n"
        r"  'features' \(features\): 1 wrong length \(expected 2 elements .* seen 1\)\nClean these"
    )
    with pytest.raises(
        SparkRuntimeException, match=rf"^\[USER_RAISED_EXCEPTION\] DataError: {message}"
    ):
        sum_model().transform(df.coalesce(1)).collect()
    skipped = sum_model(handleInvalid="skip").transform(df)
    assert predictions(skipped) == [11.0, 22.0]
    assert skipped.columns == ["id", "features", "prediction"]


@keras.saving.register_keras_serializable("spark_model")
class FailsOnWorkers(keras.layers.Layer):
    """Cannot be built but on the driver."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        if TaskContext.get() is not None:
            raise LookupError("no such table on this host")

    def call(self, rows: Any) -> Any:
        return rows


def failing(**params: Any) -> DLModel:
    layers = [keras.Input((2,)), FailsOnWorkers(), keras.layers.Dense(1)]
    return DLModel(**params).setModel(keras.Sequential(layers))


@pytest.mark.parametrize("invalid", ["error", "skip"])
def test_a_network_that_fails_on_a_worker_says_so_first(arrays: DataFrame, invalid: str) -> None:
    scored = failing(handleInvalid=invalid).transform(arrays)
    message = r"^\[USER_RAISED_EXCEPTION\] ModelError: The model cannot be rebuilt.*no such table"
    for act in (scored.collect, scored.filter("prediction > 0").count):
        with pytest.raises(SparkRuntimeException, match=message):
            act()
    if invalid == "error":
        assert scored.count() == 10  # nothing is scored
    else:
        with pytest.raises(SparkRuntimeException, match=message):
            scored.count()


def test_a_failed_transformer_ends_a_fit_with_its_own_error(spark: SparkSession) -> None:
    df = spark.createDataFrame([([1.0, 1.0],), ([1.0],)], "features array<double>")
    scored = sum_model(predictionCol="y").transform(df)
    columns = ColumnSpec.of(
        feature_column(scored.schema, "y", (1,)), label_column(scored.schema, "y")
    )
    with pytest.raises(
        DataError, match=r"^1 of \d rows? of this batch is not valid:\n  'features'"
    ):
        first_rows(scored, columns, 2, "error")


def test_no_rows_and_empty_partitions(spark: SparkSession, arrays: DataFrame) -> None:
    assert softmax_model().transform(arrays.limit(0)).collect() == []
    spread = arrays.filter("id < 2").repartition(5)
    assert predictions(softmax_model().transform(spread)) == [0.0, 1.0]


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_batch_size_does_not_change_the_result(arrays: DataFrame, size: int) -> None:
    model = sum_model(predictBatchSize=size)
    assert predictions(model.transform(arrays)) == [i + 10.0 * (i % 3) for i in range(10)]


def _plan(df: DataFrame) -> str:
    return str(df._jdf.queryExecution().executedPlan().toString())


def test_rows_are_scored_once(arrays: DataFrame) -> None:
    result = softmax_model().transform(arrays)
    for later in (
        result,
        result.filter("prediction > 0"),
        result.filter("prediction > 0").select("probability", "rawPrediction"),
        result.select("prediction", F.col("probability").alias("p")).filter("prediction = 1"),
        softmax_model(handleInvalid="skip").transform(arrays).filter("prediction > 0"),
    ):
        assert _plan(later).count("ArrowEvalPython [") == 1


def test_label_metadata_names_the_predictions(spark: SparkSession) -> None:
    df = spark.createDataFrame(
        [("b", [0.0, 5.0]), ("a", [5.0, 0.0])], "name string, features array<double>"
    )
    indexed = StringIndexer(inputCol="name", outputCol="label").fit(df).transform(df)
    fitted = FittedNetwork(
        Network(_archive(dense(2, "softmax", np.eye(2)))),
        (TensorColumn("features", "float32", (2,)),),
        (FittedOutput(OutputSpec("multiclass", 2), indexed.schema["label"].metadata),),
    )
    model = DLModel.from_training(fitted, {"loss": [2.0, 1.0]}, {"seconds": 3.0})
    assert (model.history, model.report) == ({"loss": [2.0, 1.0]}, {"seconds": 3.0})
    scored = model.transform(indexed)
    back = IndexToString(inputCol="prediction", outputCol="guess").transform(scored)
    assert {(row.name, row.guess) for row in back.collect()} == {("b", "b"), ("a", "a")}
    assert scored.schema["probability"].metadata == {"ml_attr": {"num_attrs": 2}}


def _archive(model: Any) -> bytes:
    from spark_dlobd.training.keras_codec import model_to_archive

    return model_to_archive(model)


def test_transform_schema_agrees_with_transform(arrays: DataFrame) -> None:
    for model in (softmax_model(), sum_model(), DLModel().setModel(dense(2, None, np.eye(2)))):
        promised = model.transformSchema(arrays.schema)
        real = model.transform(arrays).schema
        assert [(f.name, f.dataType) for f in promised] == [(f.name, f.dataType) for f in real]


def test_copies_share_the_network(arrays: DataFrame) -> None:
    model = softmax_model()
    model.transform(arrays)
    other = model.copy({model.predictionCol: "guess"})
    assert "guess" in other.transform(arrays).columns
    assert other._payload is model._payload
    assert pickle.loads(pickle.dumps(model._payload))._known is None
    assert copy.copy(model).fitted() is model.fitted()


def test_set_model_checks_shapes_and_takes_effect(arrays: DataFrame) -> None:
    model = DLModel().setModel(dense(1, None, [[1.0], [10.0]]))
    before = predictions(model.transform(arrays))
    model.setModel(dense(1, None, [[2.0], [20.0]]))
    assert predictions(model.transform(arrays)) == [2 * value for value in before]
    with pytest.raises(
        ModelError, match=r"rows of shape \(2,\) and have 1 output.*Got \(3,\) and 1"
    ):
        model.setModel(dense(1, None, [[1.0]] * 3, (3,)))


def test_set_model_heeds_the_loss_of_the_new_network() -> None:
    loss = keras.losses.SparseCategoricalCrossentropy
    first, second = dense(3, "softmax", WEIGHTS), dense(3, None, WEIGHTS)
    first.compile("sgd", loss())
    second.compile("sgd", loss(from_logits=True))
    model = DLModel().setModel(first)
    expected = model.predictProbability([1.0, 2.0]).toArray()
    found = model.setModel(second).predictProbability([1.0, 2.0]).toArray()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert model.predictRaw([1.0, 2.0]).toArray().tolist() == [1.0, 4.0, -1.0]


def test_keras_model_comes_back_compiled() -> None:
    network = dense(1, None, [[1.0], [10.0]])
    network.compile("sgd", "mse")
    back = DLModel().setModel(network).getKerasModel()
    assert back.evaluate(np.array([[1.0, 1.0]]), np.array([[9.0]]), verbose=0) == 4.0


@pytest.mark.timeout(180)
def test_streaming(spark: SparkSession, tmp_path: Path, arrays: DataFrame) -> None:
    source = str(tmp_path / "in")
    arrays.write.parquet(source)
    stream = spark.readStream.schema(arrays.schema).parquet(source)
    query = (
        sum_model()
        .transform(stream)
        .writeStream.format("memory")
        .queryName("scored")
        .trigger(availableNow=True)
        .start()
    )
    assert query.awaitTermination(120)
    assert predictions(spark.table("scored")) == [i + 10.0 * (i % 3) for i in range(10)]
