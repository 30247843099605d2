"""Columns matched with inputs and outputs: numbers, and everything that does not match."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import types as T

from spark_dlobd import DLEstimator, DLModel, reuse_data
from spark_dlobd.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@pytest.fixture(scope="module")
def people(spark: SparkSession) -> DataFrame:
    rows = [
        (Vectors.dense(i, 2 * i), float(i), i, i % 2 == 0, i % 2, i / 4, (i, "x"))
        for i in range(12)
    ]
    names = ["vec", "age", "visits", "flag", "clicked", "stars", "user"]
    return spark.createDataFrame(rows, names).coalesce(1).cache()


def network(*, outputs: int = 2) -> Any:
    keras.utils.set_random_seed(0)
    wide, deep = keras.Input((2,), name="wide"), keras.Input((3,), name="deep")
    both = keras.layers.Concatenate()([wide, deep])
    heads = [keras.layers.Dense(1, "sigmoid", name="clicked")(both)]
    if outputs > 1:
        heads.append(keras.layers.Dense(1, name="stars")(both))
    return keras.Model([wide, deep], heads)


SETTINGS: dict[str, Any] = {
    "inputs": {"wide": "vec", "deep": ["age", "visits", "flag"]},
    "labels": {"clicked": "clicked", "stars": "stars"},
    "loss": {"clicked": "binary_crossentropy", "stars": "mse"},
    "tracking": "none",
    "verbose": 0,
    "batchSize": 4,
}


def estimator(**changes: Any) -> DLEstimator:
    given = {"model": network(), **SETTINGS, **changes}
    return DLEstimator(**{name: value for name, value in given.items() if value is not None})


def test_scoring_sees_the_columns_in_their_order(people: DataFrame) -> None:
    wide, deep = keras.Input((2,), name="wide"), keras.Input((3,), name="deep")
    kernel = keras.initializers.Constant(np.array([[1], [10], [100], [1000], [10000]]))
    both = keras.layers.Concatenate()([wide, deep])
    net = keras.Model([wide, deep], keras.layers.Dense(1, kernel_initializer=kernel)(both))
    model = DLModel(inputs={"deep": ["age", "visits", "flag"], "wide": "vec"}).setModel(net)
    found = [row.prediction for row in model.transform(people).collect()]
    assert found == [i + 20 * i + 100 * i + 1000 * i + 10000 * (i % 2 == 0) for i in range(12)]
    assert model.predict({"wide": [1, 2], "deep": [3, 4, 0]}) == 1 + 20 + 300 + 4000
    with pytest.raises(DataError, match=r"a dict of one row for each input, 'wide', 'deep'"):
        model.predict([1, 2])


def test_input_cols_and_paths_for_one_input(people: DataFrame) -> None:
    net = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)]
    )
    model = DLModel(inputCols=["user._1", "vec"]).setModel(net)
    assert [row.prediction for row in model.transform(people).collect()] == [
        4.0 * i for i in range(12)
    ]


def test_paths_into_structs_for_every_role(spark: SparkSession) -> None:
    """Within `reuse_data` too, which compares the content of such rows."""
    rows = [((float(i % 2), i % 2, 1.0 + i, i > 8),) for i in range(12)]
    schema = "row struct<x: double, y: int, w: double, held: boolean>"
    df = spark.createDataFrame(rows, schema)
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "sigmoid")])
    stage = DLEstimator(
        model=net,
        featuresCol="row.x",
        labelCol="row.y",
        weightCol="row.w",
        validationIndicatorCol="row.held",
        loss="binary_crossentropy",
        tracking="none",
        verbose=0,
        batchSize=4,
    )
    with reuse_data():
        for _ in range(2):
            model = stage.fit(spark.createDataFrame(df.rdd, df.schema))
            assert model.report["rows"] == {"train": 9, "validation": 3}
    assert model.transform(df).count() == 12


def test_the_column_that_lacks_a_value_is_named(people: DataFrame, spark: SparkSession) -> None:
    rows = [(Vectors.dense(1, 2), None, 1, True, 1, 0.5), (None, 1.0, 1, True, 0, float("nan"))]
    struct = T.StructType().add("vec", VectorUDT()).add("age", T.DoubleType())
    struct.add("visits", T.IntegerType()).add("flag", T.BooleanType())
    struct.add("clicked", T.IntegerType()).add("stars", T.DoubleType())
    bad = spark.createDataFrame(rows, struct)
    with pytest.raises(DataError) as caught:
        estimator().fit(people.select(*bad.columns).union(bad))
    text = str(caught.value)
    assert "2 of 14 rows are not valid" in text
    assert "'age, visits, flag' (input 'deep'): 1 null in 'age'" in text
    assert "'vec' (input 'wide'): 1 null" in text
    assert "'stars' (label of 'stars'): 1 NaN or infinite" in text
    model = estimator(handleInvalid="skip").fit(people.select(*bad.columns).union(bad))
    assert model.report["skipped_rows"] == 2
    assert model.transform(bad).count() == 0
    with pytest.raises(Exception, match=r"\(input 'deep'\): 1 null, NaN or infinite in 'age'"):
        model.setParams(handleInvalid="error").transform(bad.limit(1)).collect()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"inputs": {"wide": "vec", "tall": "age"}},
            r"inputs must name every input of the network: 'wide', 'deep'\. Got 'wide', 'tall'; "
            r"without a column: 'deep'; no such input: 'tall'\.",
        ),
        (
            {"inputs": None},
            r"has 2 inputs, 'wide', 'deep', so featuresCol cannot say.*"
            r"Set inputs=\{'wide': 'column', 'deep': 'column'\}",
        ),
        ({"inputCols": ["age", "flag"]}, r"inputCols and inputs exclude each other"),
        (
            {"inputs": {"wide": ["age"], "deep": ["age", "visits", "flag"]}},
            r"'age' holds one number per row, the model expects shape \(2,\)",
        ),
        (
            {"labels": {"clicked": "clicked"}},
            r"for every output with a loss\. 'stars' has",
        ),
        ({"labels": {"clicks": "clicked"}}, r"labels must name outputs of the network: 'clicked'"),
        ({"labels": None}, r"2 outputs with a loss, 'clicked', 'stars', so labelCol cannot say"),
        (
            {"loss": {"clicked": "binary_crossentropy"}},
            r"labels names 'stars', which has no loss",
        ),
        ({"loss": {"click": "mse"}}, r"loss must name outputs of the network.*Got 'click'"),
        ({"metrics": ["mae"]}, r"metrics of a network with several outputs must be a dict"),
        ({"weightCol": {"score": "age"}}, r"weightCol must name outputs that have a label"),
        ({"labelCol": "clicked"}, r"labels and labelCol exclude each other"),
        ({"classWeight": {0: 2.0}}, r"classWeight is for a network of one output"),
        ({"thresholds": [1.0, 2.0]}, r"thresholds are for a network of one output"),
        ({"predictionCol": "p"}, r"predictionCol is for a network of one output"),
        ({"outputCols": {"prediction": "p"}}, r"outputCols must name columns of this network"),
        (
            {"labels": {"clicked": "clicked", "stars": "age"}},
            r"inputs and labels must name different columns. Both are 'age'",
        ),
    ],
)
def test_what_does_not_match_is_told_before_any_job(
    people: DataFrame, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        estimator(**changes).transformSchema(people.schema)


def test_one_column_for_two_inputs(people: DataFrame) -> None:
    both = {"wide": ["age", "visits"], "deep": ["age", "visits", "flag"]}
    model = estimator(inputs=both).fit(people)
    assert model.transform(people).count() == 12
    assert model.numFeatures == 5


def test_a_copy_of_a_column_name_among_outputs_is_refused(people: DataFrame) -> None:
    changes = {"outputCols": {"clicked_prediction": "Age"}}
    with pytest.raises(ConfigurationError, match=r"'Age' already exists .* as 'age'"):
        estimator(**changes).transformSchema(people.schema)


def test_saved_and_loaded(people: DataFrame, tmp_path: Any) -> None:
    fitted = estimator(epochs=2, outputCols={"stars_prediction": "expected"}).fit(people)
    fitted.write().save(f"file://{tmp_path}/model")
    loaded = DLModel.load(f"file://{tmp_path}/model")
    columns = ["clicked_probability", "expected"]
    assert (
        loaded.transform(people).select(columns).collect()
        == fitted.transform(people).select(columns).collect()
    )
    estimator(lossWeights={"stars": 0.5}).write().save(f"file://{tmp_path}/estimator")
    again = DLEstimator.load(f"file://{tmp_path}/estimator")
    assert again.getInputs() == SETTINGS["inputs"]
    assert again.getLoss() == SETTINGS["loss"]
    assert again.getLossWeights() == {"stars": 0.5}
