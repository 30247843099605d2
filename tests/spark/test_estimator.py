from __future__ import annotations

import json
import logging
from typing import Any, get_type_hints

import numpy as np
import pytest
from pyspark.ml.evaluation import (
    BinaryClassificationEvaluator,
    MulticlassClassificationEvaluator,
    RegressionEvaluator,
)
from pyspark.ml.feature import IndexToString, StringIndexer
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dlobd.backends import workers
from spark_dlobd.report.schema import FitReport
from tests.spark.tiny import (
    CLASSES,
    ROWS,
    X,
    Y,
    estimator,
    linear,
    softmax_step,
    squares_step,
    weights,
)

keras = pytest.importorskip("keras")

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    """Features with a label for every kind of problem, over two partitions."""
    rows = [
        (
            i,
            Vectors.dense(x),
            float(y),
            [float(y), float(-2 * y)],
            int(k),
            float(k),
            Vectors.dense(np.eye(3)[k]),
            int(k > 0),
            float(i % 3),
            i >= 6,
            "abc"[k],
        )
        for i, (x, y, k) in enumerate(zip(X, Y, CLASSES, strict=True))
    ]
    names = [
        "id",
        "features",
        "y",
        "y2",
        "k",
        "k_double",
        "k_onehot",
        "positive",
        "weight",
        "held",
        "name",
    ]
    return spark.createDataFrame(rows, names).coalesce(2).cache()


@pytest.mark.parametrize(
    ("kind", "convert"),
    [
        ("array<float>", list),
        ("array<double>", list),
        ("array<int>", lambda x: [int(v) for v in x]),
        ("binary", lambda x: bytearray(int(v) for v in x)),
    ],
)
def test_every_type_of_features_trains_alike(spark: SparkSession, kind: str, convert: Any) -> None:
    rows = [(convert([float(v) for v in x]), float(y)) for x, y in zip(X, Y, strict=True)]
    df = spark.createDataFrame(rows, f"features {kind}, label double")
    model = estimator(linear()).fit(df)
    np.testing.assert_allclose(weights(model), squares_step(X, Y), **CLOSE)
    first = model.transform(df).first()
    assert first is not None
    assert first.prediction == pytest.approx(float((X[0] @ squares_step(X, Y))[0]), rel=1e-5)


def test_the_library_chooses_the_number_of_workers(
    table: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"featuresCol": "features", "labelCol": "y", "numTrainWorkers": 0}
    report = estimator(linear(), **columns).fit(table).report
    assert report["workers"] == 1
    assert report["backend_reason"].endswith(
        "numTrainWorkers=0: one worker, as all slots share the cores that it can use alone"
    )
    monkeypatch.setattr(workers, "choose_workers", lambda *_: (2, "two in this test"))
    report = estimator(linear(), **columns, backend="local").fit(table).report
    assert report["workers"] == 2
    assert report["backend_reason"] == "chosen by the user; numTrainWorkers=0: two in this test"


def test_dense_and_sparse_vectors_in_one_column(spark: SparkSession) -> None:
    def vector(index: int, x: Any) -> Any:
        if index % 2:
            return Vectors.dense(x)
        return Vectors.sparse(2, {i: float(v) for i, v in enumerate(x) if v})

    rows = [(vector(i, x), float(y)) for i, (x, y) in enumerate(zip(X, Y, strict=True))]
    model = estimator(linear()).fit(spark.createDataFrame(rows, ["features", "label"]))
    np.testing.assert_allclose(weights(model), squares_step(X, Y), **CLOSE)


@pytest.mark.parametrize("kind", ["double", "int"])
def test_a_number_is_a_feature(table: DataFrame, kind: str) -> None:
    df = table.withColumn("features", F.col("k").cast(kind))
    model = estimator(linear(width=1), labelCol="y").fit(df)
    np.testing.assert_allclose(weights(model), squares_step(CLASSES[:, None], Y), **CLOSE)


def test_images_of_bytes_fit_a_model_with_axes(spark: SparkSession) -> None:
    rows = [(bytearray(int(v) for v in x), float(y)) for x, y in zip(X, Y, strict=True)]
    df = spark.createDataFrame(rows, "features binary, label double")
    inner = linear().layers[-1]
    image = keras.Sequential([keras.Input((1, 2, 1)), keras.layers.Flatten(), inner])
    np.testing.assert_allclose(weights(estimator(image).fit(df)), squares_step(X, Y), **CLOSE)


@pytest.mark.parametrize(
    ("label", "loss"),
    [
        ("k", "sparse_categorical_crossentropy"),
        ("k_double", "sparse_categorical_crossentropy"),
        ("k_onehot", "categorical_crossentropy"),
    ],
)
def test_softmax(table: DataFrame, label: str, loss: str) -> None:
    model = estimator(linear(3, "softmax"), labelCol=label, loss=loss).fit(table)
    expected = softmax_step(X, CLASSES, 3)
    np.testing.assert_allclose(weights(model), expected, **CLOSE)
    rows = model.transform(table).orderBy("id").collect()
    logits = X @ expected
    exponentials = np.exp(logits)
    np.testing.assert_allclose(
        [row.probability.toArray() for row in rows],
        exponentials / exponentials.sum(1, keepdims=True),
        rtol=1e-4,
    )
    assert all(row.prediction == row.probability.toArray().argmax() for row in rows)


def test_softmax_from_logits(table: DataFrame) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = estimator(linear(3), labelCol="k", loss=loss).fit(table)
    expected = softmax_step(X, CLASSES, 3)
    np.testing.assert_allclose(weights(model), expected, **CLOSE)
    row = model.transform(table).orderBy("id").first()
    assert row is not None
    np.testing.assert_allclose(row.rawPrediction.toArray(), X[0] @ expected, **CLOSE)
    assert row.probability.toArray().sum() == pytest.approx(1.0)


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_two_classes_with_one_unit(table: DataFrame, activation: str | None) -> None:
    loss = keras.losses.BinaryCrossentropy(from_logits=activation is None)
    model = estimator(linear(1, activation), labelCol="positive", loss=loss).fit(table)
    expected = X.T @ ((CLASSES > 0) - 0.5)[:, None] / ROWS
    np.testing.assert_allclose(weights(model), expected, **CLOSE)
    scored = model.transform(table)
    row = scored.orderBy("id").first()
    assert row is not None
    logit = float((X[0] @ expected)[0])
    assert row.probability[1] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)
    np.testing.assert_allclose(row.rawPrediction.toArray(), [-logit, logit], rtol=1e-4)
    area = BinaryClassificationEvaluator(labelCol="positive").evaluate(scored)
    assert area == pytest.approx(_area_under_curve(X @ expected[:, 0], CLASSES > 0))


def _area_under_curve(scores: Any, positive: Any) -> float:
    pairs = scores[positive][:, None] - scores[~positive][None]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_two_classes_with_two_units(table: DataFrame) -> None:
    model = estimator(
        linear(2, "softmax"), labelCol="positive", loss="sparse_categorical_crossentropy"
    ).fit(table)
    expected = softmax_step(X, (CLASSES > 0).astype(int), 2)
    np.testing.assert_allclose(weights(model), expected, **CLOSE)
    assert model.numClasses == 2


def test_regression_with_several_outputs(table: DataFrame) -> None:
    model = estimator(linear(2), labelCol="y2").fit(table)
    expected = squares_step(X, np.stack([Y, -2 * Y], 1))
    np.testing.assert_allclose(weights(model), expected, **CLOSE)
    row = model.transform(table).orderBy("id").first()
    assert row is not None
    np.testing.assert_allclose(row.prediction, X[0] @ expected, **CLOSE)


def test_row_weights(table: DataFrame) -> None:
    row_weights = np.arange(ROWS) % 3
    spoiled = table.withColumn("y", F.expr("if(weight = 0, 1e6, y)"))
    model = estimator(linear(), labelCol="y", weightCol="weight").fit(spoiled)
    # Keras divides by all rows, those of weight 0 too.
    expected = squares_step(X, Y, row_weights)
    np.testing.assert_allclose(weights(model), expected, **CLOSE)


@pytest.mark.parametrize(
    ("label", "loss"),
    [("k", "sparse_categorical_crossentropy"), ("k_onehot", "categorical_crossentropy")],
)
@pytest.mark.parametrize("weight_col", [None, "weight"])
def test_class_weights(table: DataFrame, label: str, loss: str, weight_col: str | None) -> None:
    fit = estimator(
        linear(3, "softmax"),
        labelCol=label,
        loss=loss,
        classWeight={0: 0.0, 2: 3.0},
        **({} if weight_col is None else {"weightCol": weight_col}),
    ).fit(table)
    row_weights = np.array([0.0, 1.0, 3.0])[CLASSES]
    if weight_col is not None:
        row_weights = row_weights * (np.arange(ROWS) % 3)
    np.testing.assert_allclose(weights(fit), softmax_step(X, CLASSES, 3, row_weights), **CLOSE)


def test_class_weights_of_one_unit(table: DataFrame) -> None:
    model = estimator(
        linear(1, "sigmoid"),
        labelCol="positive",
        loss="binary_crossentropy",
        classWeight={1: 2.0},
    ).fit(table)
    positive = CLASSES > 0
    expected = X.T @ (np.where(positive, 2.0, 1.0) * (positive - 0.5))[:, None] / ROWS
    np.testing.assert_allclose(weights(model), expected, **CLOSE)


@pytest.mark.parametrize("kind", ["boolean", "tinyint", "bigint", "double", "decimal(3,1)"])
def test_validation_by_indicator(table: DataFrame, kind: str) -> None:
    marked = table.withColumn("held", F.col("held").cast("int").cast(kind))
    model = estimator(
        linear(), labelCol="y", validationIndicatorCol="held", batchSize=6, metrics=["mae"]
    ).fit(marked)
    kernel = squares_step(X[:6], Y[:6])
    np.testing.assert_allclose(weights(model), kernel, **CLOSE)
    left = (X[6:] @ kernel)[:, 0] - Y[6:]
    assert model.report["rows"] == {"train": 6, "validation": 2}
    assert model.history["val_loss"] == pytest.approx([np.mean(left**2)], rel=1e-5)
    assert model.history["val_mae"] == pytest.approx([np.mean(np.abs(left))], rel=1e-5)
    assert model.history["loss"] == pytest.approx([np.mean(Y[:6] ** 2)], rel=1e-5)


def test_validation_by_fraction_is_drawn_from_the_seed(spark: SparkSession) -> None:
    df = spark.range(100).selectExpr("double(id) features", "double(id) label").coalesce(2)

    def val_loss(seed: int) -> tuple[float, int]:
        # The rate is so small that val_loss is the mean square of the held labels.
        model = estimator(
            linear(width=1), validationFraction=0.3, seed=seed, learningRate=1e-30
        ).fit(df)
        rows = model.report["rows"]
        assert rows["train"] + rows["validation"] == 100
        return model.history["val_loss"][0], rows["validation"]

    first = val_loss(1)
    assert 15 <= first[1] <= 45
    assert val_loss(1) == first
    assert val_loss(2) != first


def test_one_and_three_workers_agree_on_a_full_batch(table: DataFrame) -> None:
    kernels = [
        weights(
            estimator(
                linear(), labelCol="y", weightCol="weight", numTrainWorkers=n, learningRate=0.01
            )
            .setParams(epochs=3)
            .fit(table)
        )
        for n in (1, 3)
    ]
    # 8 rows for 3 workers: 2, 3 and 3 of them.
    np.testing.assert_allclose(kernels[0], kernels[1], rtol=0, atol=1e-6)
    assert np.abs(kernels[0]).max() > 0.01


def test_uneven_batches_of_three_workers_step_by_step(spark: SparkSession) -> None:
    x = np.arange(1.0, 21.0)[:, None] / 10
    rows = [(float(value), float(3 * value)) for value in x[:, 0]]
    df = spark.createDataFrame(rows, ["features", "label"]).coalesce(1)
    model = estimator(
        linear(width=1), numTrainWorkers=3, batchSize=8, shuffle=False, learningRate=0.1
    ).fit(df)
    # Of a batch of 8 the workers take 2, 3, 3 rows, of the last 4 they take 1, 1, 2:
    # worker 0 has rows 0-4, worker 1 rows 5-11, worker 2 rows 12-19.
    steps = ([0, 1, 5, 6, 7, 12, 13, 14], [2, 3, 8, 9, 10, 15, 16, 17], [4, 11, 18, 19])
    kernel = 0.0
    for step in steps:
        batch = x[step, 0]
        kernel -= 0.1 * np.mean(2 * (kernel * batch - 3 * batch) * batch)
    assert weights(model)[0, 0] == pytest.approx(kernel, rel=1e-6)
    assert model.report["steps_per_epoch"] == 3


def test_same_seed_same_weights(table: DataFrame) -> None:
    keras.utils.set_random_seed(1)
    net = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    )

    def trained(seed: int) -> list[Any]:
        model = estimator(
            net, labelCol="y", seed=seed, batchSize=3, epochs=2, learningRate=0.01
        ).fit(table)
        return list(model.getKerasModel().get_weights())

    first, again, other = trained(3), trained(3), trained(4)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_fit_changes_neither_model_nor_data(table: DataFrame) -> None:
    net = linear()
    net.compile("sgd", "mse")
    before = table.schema.json(), table.count()
    model = estimator(net, labelCol="y").fit(table)
    assert np.abs(weights(model)).max() > 0.1
    assert not np.any(net.get_weights()[0])
    assert int(net.optimizer.iterations) == 0
    assert (table.schema.json(), table.count()) == before
    assert table.is_cached
    scored = model.transform(table)
    assert scored.columns == [*table.columns, "prediction"]


def test_training_goes_on_from_the_trained_model(table: DataFrame) -> None:
    settings = {"labelCol": "y", "learningRate": 0.01}
    once = estimator(linear(), **settings).fit(table)
    twice = estimator(once.getKerasModel(), **settings).fit(table)
    straight = estimator(linear(), epochs=2, **settings).fit(table)
    np.testing.assert_allclose(weights(twice), weights(straight), **CLOSE)


def test_report_and_history(table: DataFrame) -> None:
    model = estimator(
        linear(), labelCol="y", epochs=2, batchSize=5, numTrainWorkers=2, learningRate=0.01
    ).fit(table)
    report = json.loads(json.dumps(model.report))
    assert {name: len(values) for name, values in model.history.items()} == {"loss": 2}
    assert report["backend"] == "local"
    assert report["backend_reason"] == "chosen by the user"
    assert report["workers"] == 2 and report["batch_size"] == 5 and report["seed"] == 0
    assert report["rows"] == {"train": 8, "validation": 0}
    assert report["skipped_rows"] == 0
    assert report["rows_per_epoch"] == 8 and report["steps_per_epoch"] == 2
    assert report["materialized_bytes"] > 0
    assert {"materialize", "start", "train"} <= set(report["seconds"])
    assert len(report["weights_hash"]) == 64
    assert set(report) <= set(get_type_hints(FitReport))
    assert {"python", "keras", "tensorflow"} <= {name.lower() for name in _keys(report["system"])}


def _keys(tree: Any) -> set[str]:
    if not isinstance(tree, dict):
        return set()
    return set(tree).union(*(_keys(value) for value in tree.values()))


def test_auto_is_local_for_one_worker(table: DataFrame) -> None:
    model = estimator(linear(), labelCol="y", backend="auto").fit(table)
    assert model.report["backend"] == "local"
    assert model.report["backend_reason"].startswith("auto: one worker")


def test_skipped_rows_are_counted(table: DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    holes = table.withColumn("y", F.expr("if(id < 2, null, y)"))
    with caplog.at_level(logging.WARNING, "spark_dlobd"):
        model = estimator(linear(), labelCol="y", handleInvalid="skip").fit(holes)
    np.testing.assert_allclose(weights(model), squares_step(X[2:], Y[2:]), **CLOSE)
    assert model.report["skipped_rows"] == 2
    assert model.report["rows"]["train"] == 6
    assert "2 of 8 rows are not valid" in caplog.text


def test_empty_and_uneven_partitions(table: DataFrame) -> None:
    uneven = table.repartition(6, F.expr("if(id = 0, 0, 1)"))
    sizes = uneven.rdd.glom().map(len).collect()
    assert sorted(sizes)[-2:] == [1, 7] and sizes.count(0) == 4
    model = estimator(linear(), labelCol="y", numTrainWorkers=3).fit(uneven)
    np.testing.assert_allclose(weights(model), squares_step(X, Y), **CLOSE)


def test_evaluators_and_label_names(table: DataFrame) -> None:
    indexed = StringIndexer(inputCol="name", outputCol="label").fit(table).transform(table)
    model = estimator(linear(3, "softmax"), loss="sparse_categorical_crossentropy").fit(indexed)
    scored = model.transform(indexed)
    rows = scored.collect()
    share = np.mean([row.prediction == row.label for row in rows])
    accuracy = MulticlassClassificationEvaluator(metricName="accuracy").evaluate(scored)
    assert accuracy == pytest.approx(share)
    loss = MulticlassClassificationEvaluator(metricName="logLoss").evaluate(scored)
    picked = [row.probability[int(row.label)] for row in rows]
    assert loss == pytest.approx(-np.mean(np.log(picked)), rel=1e-5)
    names = IndexToString(inputCol="prediction", outputCol="guess").transform(scored)
    by_index = {row.label: row.name for row in rows}
    assert all(row.guess == by_index[row.prediction] for row in names.collect())


def test_regression_evaluator(table: DataFrame) -> None:
    model = estimator(linear(), labelCol="y", learningRate=0.01).fit(table)
    residual = Y - (X @ (0.01 * squares_step(X, Y)))[:, 0]
    error = RegressionEvaluator(labelCol="y", metricName="mse").evaluate(model.transform(table))
    assert error == pytest.approx(np.mean(residual**2), rel=1e-5)


def test_thresholds_reach_the_model(table: DataFrame) -> None:
    model = estimator(
        linear(3, "softmax"),
        labelCol="k",
        loss="sparse_categorical_crossentropy",
        thresholds=[1.0, 1e-9, 1.0],
    ).fit(table)
    assert {row.prediction for row in model.transform(table).collect()} == {1.0}


def test_set_model_replaces_weights(table: DataFrame) -> None:
    model = estimator(linear(), labelCol="y").fit(table)
    other = linear()
    other.set_weights([np.array([[1.0], [10.0]])])
    changed = model.copy().setModel(other)
    assert [row.prediction for row in changed.transform(table).orderBy("id").collect()] == [
        x[0] + 10 * x[1] for x in X
    ]
    np.testing.assert_allclose(weights(model), squares_step(X, Y), **CLOSE)


def test_names_with_dots_and_upper_case(table: DataFrame) -> None:
    df = table.select(F.col("features").alias("in.x"), F.col("y").alias("Out Y"))
    model = estimator(linear(), featuresCol="in.x", labelCol="Out Y").fit(df)
    np.testing.assert_allclose(weights(model), squares_step(X, Y), **CLOSE)
    assert model.transform(df).count() == ROWS
