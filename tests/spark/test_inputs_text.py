"""Strings and preprocessing layers: the network sees in Spark what Keras sees in arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.errors import SparkRuntimeException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dlobd import DLEstimator, DLModel
from spark_dlobd.errors import ConfigurationError, DataError
from spark_dlobd.job.input_columns import SequenceColumn

keras = pytest.importorskip("keras")

TITLES = ["good film", "bad böring film", "", "日本語 good", "a\0b film", "bad"]
COUNTRIES = ["de", "fr", "it"]
ROWS = 24


@pytest.fixture(scope="module")
def df(spark: SparkSession) -> DataFrame:
    rows = [
        (
            i,
            TITLES[i % len(TITLES)],
            COUNTRIES[i % 3],
            "phone" if i % 2 else "",
            [COUNTRIES[i % 3], "né"],
            [["x", COUNTRIES[i % 3]]] * (i % 4),
            float(i),
            i % 7,
            float(i % 2),
        )
        for i in range(ROWS)
    ]
    names = "id int, title string, country string, device string, tags array<string>, "
    names += "pairs array<array<string>>, age double, bucket int, label double"
    return spark.createDataFrame(rows, names).repartition(2).cache()


def preprocessing() -> Any:
    """A network with each kind of layer that learns something from data beforehand."""
    keras.utils.set_random_seed(3)
    title = keras.Input((1,), dtype="string", name="title")
    cats = keras.Input((2,), dtype="string", name="cats")
    tags = keras.Input((2,), dtype="string", name="tags")
    age = keras.Input((1,), name="age")
    bucket = keras.Input((1,), dtype="int32", name="bucket")
    words = keras.layers.TextVectorization(max_tokens=20, output_sequence_length=4)
    words.adapt(TITLES)
    lookup = keras.layers.StringLookup(
        vocabulary=[*COUNTRIES, "phone", ""], output_mode="multi_hot"
    )
    normal = keras.layers.Normalization()
    normal.adapt(np.arange(ROWS, dtype="float32")[:, None])
    bins = keras.layers.Discretization(num_bins=3, output_mode="one_hot")
    bins.adapt(np.arange(ROWS, dtype="float32")[:, None])
    embedded = keras.layers.Embedding(20, 3)(words(title))
    parts = [
        keras.layers.GlobalAveragePooling1D()(embedded),
        lookup(cats),
        keras.layers.CategoryEncoding(9, output_mode="multi_hot")(
            keras.layers.Hashing(9, salt=7)(tags)
        ),
        normal(age),
        bins(age),
        keras.layers.CategoryEncoding(7, output_mode="one_hot")(bucket),
    ]
    output = keras.layers.Dense(1, "sigmoid")(keras.layers.Concatenate()(parts))
    return keras.Model([title, cats, tags, age, bucket], output)


INPUTS = {
    "title": "title",
    "cats": ["country", "device"],
    "tags": "tags",
    "age": "age",
    "bucket": "bucket",
}


def batch(df: DataFrame) -> tuple[Any, list[int]]:
    """The same rows as Keras itself takes them, which knows no arrays of strings."""
    import tensorflow as tf

    rows = df.collect()
    x = {
        "title": tf.constant([[row.title] for row in rows]),
        "cats": tf.constant([[row.country, row.device] for row in rows]),
        "tags": tf.constant([row.tags for row in rows]),
        "age": tf.constant([[row.age] for row in rows]),
        "bucket": tf.constant([[row.bucket] for row in rows]),
    }
    y = np.array([[row.label] for row in rows])
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(ROWS), [row.id for row in rows]


def estimator(model: Any, **params: Any) -> DLEstimator:
    settings: dict[str, Any] = {
        "loss": "binary_crossentropy",
        "optimizer": "sgd",
        "learningRate": 0.5,
        "batchSize": ROWS,
        "backend": "local",
        "tracking": "none",
        "verbose": 0,
    }
    return DLEstimator(model=model, **{**settings, **params})


def test_preprocessing_layers_see_what_keras_sees(df: DataFrame, tmp_path: Path) -> None:
    net = preprocessing()
    fitted = estimator(net, inputs=INPUTS, metrics=["accuracy"], epochs=2).fit(df)
    rows, ids = batch(df)
    net.compile(keras.optimizers.SGD(0.5), "binary_crossentropy", metrics=["accuracy"])
    net.fit(rows, epochs=2, verbose=0)
    ours = fitted.getKerasModel().get_weights()
    for got, wanted in zip(ours, net.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    # the vocabularies travel with the network, to workers and into the saved stage
    wanted = dict(zip(ids, net.predict(rows, verbose=0)[:, 0].tolist(), strict=True))
    fitted.write().overwrite().save(str(tmp_path / "stage"))
    for model in (fitted, DLModel.load(str(tmp_path / "stage"))):
        scored = model.transform(df).collect()
        got = {row.id: row.probability[1] for row in scored}
        assert got == pytest.approx(wanted, abs=1e-6)
        first = scored[0]
        row = {name: first[name] for name in ("title", "tags", "age", "bucket")}
        one = model.predict({**row, "cats": [first.country, first.device]})
        assert one == first.prediction
    loss, accuracy = net.evaluate(rows, verbose=0)
    assert fitted.evaluate(df) == pytest.approx({"loss": loss, "accuracy": accuracy}, rel=1e-5)


def lengths(shape: tuple[int, ...] = (1,)) -> Any:
    """A network without weights that learn: how many bytes its strings have."""
    text = keras.Input(shape, dtype="string")
    return keras.Model(text, Bytes()(text))


@keras.saving.register_keras_serializable("inputs")
class Bytes(keras.layers.Layer):  # type: ignore[misc]
    """Bytes of all strings of a row, their number times 100, and 10,000 for each 'né'."""

    def call(self, text: Any) -> Any:
        import tensorflow as tf

        flat = tf.reshape(text, (tf.shape(text)[0], -1))
        sizes = tf.strings.length(flat) + tf.where(flat == "né", 10_000, 0)
        return tf.cast(tf.reduce_sum(sizes, axis=1, keepdims=True), "float32")

    def compute_output_shape(self, shape: Any) -> Any:
        return (shape[0], 1)


def scores(df: DataFrame, shape: tuple[int, ...], **columns: Any) -> list[float]:
    model = DLModel(**columns).setModel(lengths(shape), "regression")
    return [row.prediction for row in model.transform(df).orderBy("id").collect()]


def test_strings_arrive_exactly(df: DataFrame) -> None:
    wanted = [len(TITLES[i % len(TITLES)].encode()) for i in range(ROWS)]
    assert scores(df, (1,), featuresCol="title") == wanted
    assert scores(df, (), featuresCol="title") == wanted
    assert scores(df, (2,), featuresCol="tags") == [10_005] * ROWS
    together = scores(df, (4,), inputCols=["title", "tags", "device"])
    assert together == [w + 10_005 + 5 * (i % 2) for i, w in enumerate(wanted)]


def test_a_sequence_of_strings_is_padded(df: DataFrame) -> None:
    inputs = {"pairs": SequenceColumn("pairs", length=2, padding="né")}
    pairs = [min(i % 4, 2) for i in range(ROWS)]
    wanted = [3 * count + 2 * (2 - count) * 10_003 for count in pairs]
    assert scores(df, (2, 2), inputs=inputs) == wanted


def test_null_strings_are_not_valid(df: DataFrame) -> None:
    some = df.withColumn("title", F.when(F.col("id") > 2, F.col("title")))
    model = DLModel(featuresCol="title").setModel(lengths(), "regression")
    with pytest.raises(SparkRuntimeException, match=r"'title' \(features\): \d null"):
        model.transform(some).collect()
    kept = model.copy()._set(handleInvalid="skip").transform(some)
    assert kept.count() == ROWS - 3
    nested = df.withColumn(
        "tags", F.when(F.col("id") > 2, F.col("tags")).otherwise(F.array(F.lit("a"), F.lit(None)))
    )
    model = DLModel(featuresCol="tags").setModel(lengths((2,)), "regression")
    with pytest.raises(SparkRuntimeException, match=r"'tags' \(features\): \d null inside"):
        model.transform(nested).collect()


def test_fit_names_the_column_of_a_null_string(df: DataFrame) -> None:
    some = df.withColumn("device", F.when(F.col("id") > 2, F.col("device")))
    with pytest.raises(DataError, match=r"\(input 'cats'\): 3 null in 'device'"):
        estimator(preprocessing(), inputs=INPUTS).fit(some)


def test_columns_and_inputs_have_to_match(df: DataFrame) -> None:
    net = preprocessing()
    without = {name: column for name, column in INPUTS.items() if name != "tags"}
    with pytest.raises(ConfigurationError, match="without a column: 'tags'"):
        estimator(net, inputs=without).fit(df)
    with pytest.raises(ConfigurationError, match="no such input: 'photo'"):
        estimator(net, inputs={**INPUTS, "photo": "title"}).fit(df)
    with pytest.raises(ConfigurationError, match=r"'title' must be a number.*StringIndexer"):
        estimator(net, inputs={**INPUTS, "age": "title"}).fit(df)
    with pytest.raises(ConfigurationError, match=r"'age' must hold strings.*cast\('string'\)"):
        estimator(net, inputs={**INPUTS, "title": "age"}).fit(df)
    with pytest.raises(ConfigurationError, match=r"one string per row.*shape \(2,\)"):
        estimator(net, inputs={**INPUTS, "cats": "country"}).fit(df)


def test_one_column_may_serve_two_inputs(df: DataFrame) -> None:
    words = keras.Input((1,), dtype="string", name="words")
    again = keras.Input((1,), dtype="string", name="again")
    both = keras.layers.Add()([Bytes()(words), Bytes()(again)])
    model = DLModel(inputs={"words": "title", "again": "title"})
    model.setModel(keras.Model([words, again], both), "regression")
    found = [row.prediction for row in model.transform(df).orderBy("id").collect()]
    assert found == [2 * len(TITLES[i % len(TITLES)].encode()) for i in range(ROWS)]
