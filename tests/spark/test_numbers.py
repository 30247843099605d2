"""fit and transform see the same numbers: what is not finite, whole numbers, nested arrays."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
from pyspark.errors import SparkRuntimeException
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dlobd.errors import ConfigurationError, DataError
from spark_dlobd.estimators.model import DLModel
from tests.id_network import IDS, id_network
from tests.spark.tiny import estimator, linear

keras = pytest.importorskip("keras")

INF = math.inf


@functools.cache
def scorer(
    units: int, activation: str | None = None, width: int = 3, dtype: str = "float32"
) -> Any:
    """One network for many tests: workers build it once."""
    inputs = keras.Input((width,), dtype=dtype)
    layer = keras.layers.Dense(units, activation, kernel_initializer="ones", use_bias=False)
    net = keras.Model(inputs, layer(inputs))
    problem: Any = "classification" if activation in ("softmax", "sigmoid") else "regression"
    return DLModel().setModel(net, problem)


def scored(model: DLModel, df: DataFrame, **params: Any) -> list[Any]:
    return model.copy()._set(**params).transform(df).orderBy("id").collect()


@pytest.fixture(scope="module")
def vectors(spark: SparkSession) -> DataFrame:
    rows = [(0, [1.0, 2.0, 3.0]), (1, [1.0, INF, 2.0]), (2, [1.0, 1e39, 2.0])]
    return spark.createDataFrame(rows, "id long, features array<double>").coalesce(1).cache()


NETWORKS = [(3, "softmax"), (101, "softmax"), (1, "sigmoid"), (1, None), (2, None)]


@pytest.mark.parametrize(
    ("units", "activation", "kind"),
    [*((*network, "array") for network in NETWORKS), (3, "softmax", "vector"), (1, None, "float")],
)
def test_features_that_are_not_finite_are_never_scored(
    vectors: DataFrame, units: int, activation: str | None, kind: str
) -> None:
    values = F.col("features")
    kinds = {
        "array": values,
        "vector": array_to_vector(values),
        "float": values.cast("array<float>"),
    }
    df = vectors.withColumn("features", kinds[kind])
    model = scorer(units, activation)
    assert [row.id for row in scored(model, df, handleInvalid="skip")] == [0]
    message = r"2 of 3 rows of this batch are not valid:\n  'features' \(features\): 2 NaN or inf"
    with pytest.raises(SparkRuntimeException, match=message):
        model.transform(df).select("prediction").collect()


def test_fit_refuses_the_same_rows(vectors: DataFrame) -> None:
    df = vectors.withColumn("label", F.lit(1.0))
    with pytest.raises(
        DataError, match=r"2 of 3 rows are not valid:\n  'features' \(features\): 2"
    ):
        estimator(linear(width=3)).fit(df)
    fitted = estimator(linear(width=3), handleInvalid="skip", batchSize=1).fit(df)
    assert fitted.report["skipped_rows"] == 2


def test_numbers_that_overflow_half_a_float(spark: SparkSession) -> None:
    df = spark.createDataFrame([(0, 3), (1, 70000)], "id long, features int")
    rows = scored(scorer(1, width=1, dtype="float16"), df, handleInvalid="skip")
    assert [(row.id, row.prediction) for row in rows] == [(0, 3.0)]


@pytest.mark.parametrize(
    ("units", "activation"), [(1, "exponential"), (2, "exponential"), (101, "exponential")]
)
def test_what_the_network_makes_infinite_is_never_a_prediction(
    spark: SparkSession, units: int, activation: str
) -> None:
    data = [(0, [0.0, 0.0, 0.0]), (1, [100.0, 100.0, 100.0])]
    df = spark.createDataFrame(data, "id long, features array<double>").coalesce(1)
    rows = scored(scorer(units, activation), df, handleInvalid="skip")
    assert [row.id for row in rows] == [0]
    assert np.ravel(rows[0].prediction).tolist() == [1.0] * units
    with pytest.raises(SparkRuntimeException, match=r"output is NaN or infinite for 1 of 2 rows"):
        scorer(units, activation).transform(df).select("prediction").collect()


def test_logits_that_are_not_finite_are_never_a_class(spark: SparkSession) -> None:
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3, "exponential")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(loss=loss)
    net.set_weights([np.ones((1, 3)), np.zeros(3)])
    df = spark.createDataFrame([(0, 1.0), (1, 1000.0)], "id long, features double")
    rows = scored(DLModel().setModel(net, "classification"), df, handleInvalid="skip")
    assert [row.id for row in rows] == [0]


COLUMNS = {
    "bigint": "id",
    "double": "double(id)",
    "decimal": "decimal(id)",
    "precise decimal": "cast(id as decimal(38, 6))",
    "array": "array(id)",
    "array of doubles": "array(double(id))",
    "array of decimals": "array(cast(id as decimal(20, 2)))",
    "vector": "array_to_vector",
}


@pytest.fixture(scope="module")
def ids(spark: SparkSession) -> DataFrame:
    rows = [(value, value % 4) for value in IDS]
    return spark.createDataFrame(rows, "id long, label long").coalesce(1).cache()


@pytest.mark.parametrize("kind", sorted(COLUMNS))
def test_whole_numbers_are_told_apart_in_fit_and_transform(ids: DataFrame, kind: str) -> None:
    vector = array_to_vector(F.array(F.col("id").cast("double")))
    features = vector if kind == "vector" else F.expr(COLUMNS[kind])
    df = ids.withColumn("features", features)
    fitted = estimator(
        id_network(), loss="sparse_categorical_crossentropy", metrics=["accuracy"],
        batchSize=32, epochs=2,
    ).fit(df)  # fmt: skip
    assert fitted.history["accuracy"][1] == 1.0
    assert fitted.transform(df).filter("prediction = label").count() == len(IDS)


BIG = 2**53 + 1
"""Double holds its neighbours, but not it."""


@functools.cache
def big_ids() -> DLModel:
    """Says how far an id is from 2^53."""
    ids = keras.Input((1,), dtype="int64")
    distance = keras.ops.cast(ids - 2**53, "float32")
    layer = keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)
    return DLModel(handleInvalid="skip").setModel(keras.Model(ids, layer(distance)))


def test_a_replaced_network_gets_the_numbers_that_it_takes(spark: SparkSession) -> None:
    df = spark.createDataFrame([(float(IDS[1]), 1)], "features double, label int")
    inputs = keras.Input((1,))
    floats = keras.Model(inputs, keras.layers.Dense(4, "softmax")(inputs))
    model = DLModel().setModel(floats, "classification")
    network = id_network()
    network.layers[-1].set_weights([np.eye(4)])
    model.setModel(network)
    assert model.transform(df).first()["prediction"] == 1.0
    assert model.setModel(floats).transform(df.select(F.lit(0.5).alias("features"))).count() == 1


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("bigint", [BIG, None, BIG + 2]),
        ("array<bigint>", [[BIG], None, [BIG + 2]]),
        ("array<bigint>", [[BIG], [None], [BIG + 2]]),
        ("array<bigint>", [[BIG], [], [BIG + 2]]),
        ("decimal(20,0)", [BIG, None, BIG + 2]),
        ("decimal(22,2)", [BIG, 0.5, BIG + 2]),
    ],
)
def test_other_rows_do_not_change_whole_numbers(
    spark: SparkSession, type_: str, values: list[Any]
) -> None:
    from decimal import Decimal

    if type_.startswith("decimal"):
        values = [None if value is None else Decimal(str(value)) for value in values]
    df = spark.createDataFrame(list(enumerate(values)), f"id long, features {type_}").coalesce(1)
    rows = scored(big_ids(), df)
    assert [(row.id, row.prediction) for row in rows] == [(0, 1.0), (2, 3.0)]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("id + 0.5", r"32 not a whole number \(the model takes int32: whole numbers from -214"),
        ("id * 1000.0D", r"32 out of range \(the model takes int32: .* to 2147483647\)"),
        ("id * 1000", r"32 out of range"),
        ("decimal(id) * 1000", r"32 out of range"),
        ("double('nan')", r"32 NaN or infinite"),
        ("float('inf')", r"32 NaN or infinite"),
    ],
)
def test_fractions_and_numbers_out_of_range_are_invalid(
    ids: DataFrame, expression: str, message: str
) -> None:
    df = ids.withColumn("features", F.expr(expression))
    wrong = estimator(id_network("int32"), loss="sparse_categorical_crossentropy")
    with pytest.raises(DataError, match=message):
        wrong.fit(df)
    model = DLModel().setModel(id_network("int32"), "classification")
    with pytest.raises(SparkRuntimeException, match=message):
        model.transform(df).select("prediction").collect()


def test_wide_floats_of_a_wide_network(spark: SparkSession) -> None:
    df = spark.createDataFrame([(0, 1.0 + 2**-40, 1.0)], "id long, features double, label double")
    inputs = keras.Input((1,), dtype="float64")
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", dtype="float64")
    net = keras.Model(inputs, layer(inputs - 1.0) * 2.0**40)
    assert scored(DLModel().setModel(net), df)[0].prediction == 1.0
    fitted = estimator(net, batchSize=1).fit(df)
    assert fitted.history["loss"] == [0.0]


NESTED = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


@functools.cache
def matrix_net() -> Any:
    layers = [keras.Input((2, 3)), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(1, kernel_initializer="ones")])


def test_nested_arrays_of_the_networks_shape(spark: SparkSession) -> None:
    df = spark.createDataFrame(
        [(0, NESTED, 21.0)], "id int, features array<array<double>>, label float"
    )
    fitted = estimator(matrix_net(), batchSize=1).fit(df)
    assert fitted.history["loss"] == [0.0]
    assert scored(DLModel().setModel(matrix_net()), df)[0].prediction == 21.0


OTHER_SHAPES = [
    [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],  # as many numbers
    [[1.0, 2.0, 3.0], [4.0, 5.0]],
    [[1.0, 2.0, 3.0], None],
    [],
]


def test_nested_arrays_of_another_shape(spark: SparkSession) -> None:
    rows = [(i, values, 1.0) for i, values in enumerate([NESTED, *OTHER_SHAPES])]
    df = spark.createDataFrame(rows, "id int, features array<array<double>>, label float").coalesce(
        1
    )
    words = r"'features' \(features\): 4 nested in another shape \(expected shape \(2, 3\)\)"
    with pytest.raises(DataError, match=words):
        estimator(matrix_net()).fit(df)
    with pytest.raises(SparkRuntimeException, match=words):
        DLModel().setModel(matrix_net()).transform(df).collect()
    skipped = scored(DLModel().setModel(matrix_net()), df, handleInvalid="skip")
    assert [(row.id, row.prediction) for row in skipped] == [(0, 21.0)]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("Array", r"feature column 'Array' is not in the DataFrame. Available columns: 'id', 'arr"),
        ("nothing", r"feature column 'nothing' is not in the DataFrame"),
        ("twice", r"feature column 'twice' is ambiguous: the DataFrame has 'twice', 'Twice'"),
        ("text", r"feature column 'text' must be a number, an array of numbers, a vector or bina"),
        ("deep", r"feature column 'deep' holds arrays nested 3 deep, the model expects shape \(2,"),
        ("id", r"feature column 'id' holds one number per row, the model expects shape \(2, 3\)"),
    ],
)
def test_fit_and_transform_refuse_a_column_in_the_same_words(
    spark: SparkSession, features: str, message: str
) -> None:
    df = spark.createDataFrame([(0, [1.0] * 6, 1.0)], "id long, array array<double>, label double")
    df = df.selectExpr(
        "*", "'a' as text", "array as twice", "array as Twice", "array(array(array)) as deep"
    )
    with pytest.raises(ConfigurationError, match=message) as fit_error:
        estimator(matrix_net(), featuresCol=features).fit(df)
    model = DLModel(featuresCol=features).setModel(matrix_net())
    for refused in (model.transform, lambda df: model.transformSchema(df.schema)):
        with pytest.raises(ConfigurationError) as error:
            refused(df)
        assert str(error.value) == str(fit_error.value)


def test_an_output_that_differs_only_by_case(vectors: DataFrame) -> None:
    df = vectors.withColumn("Prediction", F.lit(1))
    with pytest.raises(ConfigurationError, match=r"'prediction' already exists.* as 'Prediction'"):
        scorer(1).transform(df)
    raw = vectors.withColumn("rawPrediction", F.lit(1))
    with pytest.raises(ConfigurationError, match=r"e\.g\. rawPredictionCol='rawPrediction2'"):
        scorer(3, "softmax").transform(raw)
    with pytest.raises(ConfigurationError, match=r"must name different columns"):
        scorer(3, "softmax").copy()._set(probabilityCol="Prediction").transform(vectors)
