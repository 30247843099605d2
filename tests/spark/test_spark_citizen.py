"""The estimator and its model are what Spark's own are to a Pipeline and to ported code."""

from __future__ import annotations

import copy
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark import cloudpickle
from pyspark.ml import Estimator, Model
from pyspark.ml.base import PredictionModel, Predictor
from pyspark.ml.feature import StringIndexer
from pyspark.ml.linalg import Vectors
from pyspark.ml.param import shared
from pyspark.ml.util import HasTrainingSummary
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dlobd import DLEstimator, DLModel
from spark_dlobd.errors import ConfigurationError, DataError, ModelError, NotAvailableError
from tests.spark.tiny import CLASSES, X, Y, estimator, linear

keras = pytest.importorskip("keras")

ROW_WEIGHTS = np.arange(len(X)) % 3 + 1.0


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rows = [
        (i, Vectors.dense(x), int(label), float(y), float(weight))
        for i, (x, label, y, weight) in enumerate(zip(X, CLASSES, Y, ROW_WEIGHTS, strict=True))
    ]
    return spark.createDataFrame(rows, ["id", "features", "label", "y", "w"]).repartition(3).cache()


def classifier(**params: Any) -> DLEstimator:
    settings: dict[str, Any] = {
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["accuracy"],
        "learningRate": 0.1,
    }
    return estimator(linear(3, "softmax"), **{**settings, **params})


@pytest.fixture(scope="module")
def fitted(table: DataFrame) -> tuple[DLEstimator, DLModel]:
    est = classifier(epochs=2)
    return est, est.fit(table)


def test_mixins_of_spark(fitted: tuple[DLEstimator, DLModel]) -> None:
    est, model = fitted
    assert isinstance(est, Predictor) and isinstance(est, Estimator)
    assert isinstance(model, PredictionModel) and isinstance(model, Model)
    assert isinstance(model, HasTrainingSummary)
    both = (
        "FeaturesCol LabelCol PredictionCol ProbabilityCol RawPredictionCol Thresholds WeightCol "
        "HandleInvalid"
    )
    training = "Seed ValidationIndicatorCol BatchSize LearningRate Loss NumTrainWorkers"
    for name in both.split():
        assert isinstance(model, getattr(shared, f"Has{name}")), name
    for name in f"{both} {training}".split():
        assert isinstance(est, getattr(shared, f"Has{name}")), name
    assert est.getSeed() == 0 and est.getBatchSize() == 8


def test_the_model_has_uid_and_parent_of_its_estimator(
    fitted: tuple[DLEstimator, DLModel], table: DataFrame, tmp_path: Path
) -> None:
    est, model = fitted
    assert model.uid == est.uid and model.parent is est
    assert model.copy().parent is est and copy.copy(model).uid == est.uid
    # so a Param of the estimator is one of the model
    assert model.transform(table, {est.predictionCol: "p"}).columns[-1] == "p"
    model.save(str(tmp_path / "model"))
    loaded = DLModel.load(str(tmp_path / "model"))
    assert loaded.uid == est.uid and loaded.parent is None
    assert cloudpickle.loads(cloudpickle.dumps(model)).parent is None


def test_each_map_has_its_parent(table: DataFrame) -> None:
    est = classifier()
    models = est.fit(table, [{est.epochs: 1}, {est.epochs: 2}])
    assert [model.uid for model in models] == [est.uid] * 2
    assert [model.parent.getEpochs() for model in models if model.parent] == [1, 2]


def test_columns_come_in_sparks_order(
    fitted: tuple[DLEstimator, DLModel], table: DataFrame
) -> None:
    expected = [*table.columns, "rawPrediction", "probability", "prediction"]
    assert fitted[1].transform(table).columns == expected


def test_transform_schema_tells_the_output_before_the_fit(
    fitted: tuple[DLEstimator, DLModel], table: DataFrame
) -> None:
    est, model = fitted
    assert est.transformSchema(table.schema) == model.transform(table).schema
    words = table.withColumn("word", F.col("label").cast("string"))
    indexed = StringIndexer(inputCol="word", outputCol="index").fit(words).transform(words)
    named = classifier(labelCol="index")
    schema = named.transformSchema(indexed.schema)
    assert schema == named.fit(indexed).transform(indexed).schema
    assert schema["prediction"].metadata == schema["index"].metadata
    two = estimator(linear(2), labelCol="pair")
    field = two.transformSchema(table.withColumn("pair", F.array("y", "w")).schema)["prediction"]
    assert field.dataType.simpleString() == "array<double>"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"labelCol": "nothing"}, "label column 'nothing' is not in the DataFrame"),
        ({"predictionCol": "w"}, "Output column 'w' already exists"),
        ({"validationIndicatorCol": "x"}, "validation indicator column 'x' is not in"),
        ({"thresholds": [1.0]}, "thresholds must have one value per class"),
        ({"classWeight": {7: 1.0}}, "classWeight must name classes of the model"),
    ],
)
def test_transform_schema_refuses(table: DataFrame, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        classifier(**params).transformSchema(table.schema)


def test_predict_is_transform_of_one_row(
    fitted: tuple[DLEstimator, DLModel], table: DataFrame
) -> None:
    model = fitted[1].copy({fitted[1].thresholds: [0.9, 0.2, 0.9]})
    for row in model.transform(table).collect():
        prediction = model.predict(row.features)
        assert isinstance(prediction, float) and prediction == row.prediction
        for given in (row.features.toArray(), row.features.toArray().tolist()):
            found = model.predictProbability(given)
            np.testing.assert_allclose(found.toArray(), row.probability.toArray(), rtol=1e-6)
        raw = model.predictRaw(row.features).toArray()
        np.testing.assert_allclose(raw, row.rawPrediction.toArray(), rtol=1e-6)
    assert model.numFeatures == 2 and model.numClasses == 3


def test_predict_of_sparse_and_several_outputs() -> None:
    net = linear(2)
    net.set_weights([np.array([[1.0, 2.0], [10.0, 20.0]])])
    model = DLModel().setModel(net)
    assert model.predict(Vectors.sparse(2, {1: 3.0})) == [30.0, 60.0]
    assert model.predict([True, False]) == [1.0, 2.0]
    assert model.predict([Decimal("0.5"), Decimal(1)]) == [10.5, 21.0]
    assert model.predict(b"\x01\x02") == [21.0, 42.0]
    net.set_weights([np.zeros((2, 2))])
    assert model.setModel(net).predict([1, 1]) == [0.0, 0.0]
    one = DLModel().setModel(linear(1, width=1))
    assert one.predict(3) == 0.0 and one.numFeatures == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0], r"1 wrong length \(expected 2 elements for shape \(2,\), seen 1\)"),
        ([1.0, float("nan")], r"This row is not valid:\n  .* 1 NaN or infinite$"),
        ([[1.0, 2.0], [3.0, 4.0]], r"one row of shape \(2,\), flat or nested. Got shape \(2, 2\)"),
        ("ab", "predict takes one row: .* Got 'ab'"),
        (None, "predict takes one row: .* Got None"),
        ([3e38, 3e38], "The network's output for this row is NaN or infinite"),
    ],
)
def test_predict_refuses_what_is_no_row(value: Any, message: str) -> None:
    net = linear()
    net.set_weights([np.array([[2.0], [2.0]])])
    with pytest.raises(DataError, match=message):
        DLModel().setModel(net).predict(value)


def test_a_regression_has_no_probability() -> None:
    model = DLModel().setModel(linear())
    with pytest.raises(ConfigurationError, match="A regression has no probability"):
        model.predictProbability([1.0, 2.0])


def test_hasattr_of_everything_that_is_empty() -> None:
    model, est = DLModel(), DLEstimator()
    found = {
        (type(stage).__name__, name)
        for stage in (model, est)
        for name in dir(type(stage))
        if name[0] != "_" and hasattr(type(stage), name) and not hasattr(stage, name)
    }
    assert found == {("DLModel", "summary"), ("DLEstimator", "network")}
    assert (model.numClasses, model.numFeatures, model.hasSummary) == (None, -1, False)
    assert (model.history, model.report, model.parent) == ({}, {}, None)
    with pytest.raises(NotAvailableError, match=r"has no summary\. Ask hasSummary first"):
        _ = model.summary
    with pytest.raises(ConfigurationError, match="holds no network"):
        model.predict([1.0])


def test_summary_is_a_view(fitted: tuple[DLEstimator, DLModel], tmp_path: Path) -> None:
    model = fitted[1]
    assert model.hasSummary
    assert model.summary.objectiveHistory == model.history["loss"]
    assert model.summary.totalIterations == 2
    assert model.summary.metrics["accuracy"] == model.history["accuracy"][1]
    assert model.summary.report is model.report
    model.save(str(tmp_path / "model"))
    assert DLModel.load(str(tmp_path / "model")).summary.history == model.history
    other = model.copy().setModel(linear(3, "softmax"))
    assert not other.hasSummary and other.parent is None and model.hasSummary


METRICS = ["accuracy", "sparse_top_k_categorical_accuracy"]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("partitions", [1, 5])
def test_evaluate_is_that_of_keras(table: DataFrame, weighted: bool, partitions: int) -> None:
    net = linear(3, "softmax")
    net.set_weights([np.array([[0.5, -0.2, 0.1], [0.0, 0.3, -0.4]])])
    options = {"metrics": ["accuracy"], "weighted_metrics": ["accuracy"], "steps_per_execution": 3}
    net.compile("sgd", "sparse_categorical_crossentropy", **options)
    model = DLModel(predictBatchSize=2).setModel(net)
    if weighted:
        model._set(weightCol="w")
    expected = net.evaluate(
        X, CLASSES, sample_weight=ROW_WEIGHTS if weighted else None, return_dict=True, verbose=0
    )
    found = model.evaluate(table.repartition(partitions))
    assert found.keys() == expected.keys() and "weighted_accuracy" in found
    assert found == pytest.approx(expected, rel=1e-5)


def test_evaluate_by_hand(table: DataFrame) -> None:
    net = linear()
    net.set_weights([np.array([[2.0], [-1.0]])])
    metrics = [
        keras.metrics.RootMeanSquaredError(),
        keras.metrics.R2Score(),
        keras.metrics.MeanAbsoluteError(name="mae"),
    ]
    net.compile("sgd", "mse", metrics=metrics)
    model = DLModel(labelCol="y").setModel(net)
    # every prediction is 1 too small
    variance = float(np.var(Y))
    expected = {
        "loss": 1.0,
        "root_mean_squared_error": 1.0,
        "mae": 1.0,
        "r2_score": 1 - 1 / variance,
    }
    assert model.evaluate(table) == pytest.approx(expected, rel=1e-5)


def test_auc_and_images_of_bytes_over_partitions(spark: SparkSession) -> None:
    scores = np.array([10, 40, 35, 80, 60, 20])
    labels = np.array([0, 0, 1, 1, 1, 0])
    rows = [(bytearray([s, 0]), int(label)) for s, label in zip(scores, labels, strict=True)]
    df = spark.createDataFrame(rows, "features binary, label int").repartition(6)
    net = linear(1, "sigmoid")
    net.set_weights([np.array([[0.02], [0.0]])])
    net.compile("sgd", "binary_crossentropy", metrics=[keras.metrics.AUC(name="auc")])
    # of 9 pairs of a positive and a negative row, 8 are in order
    assert DLModel().setModel(net).evaluate(df)["auc"] == pytest.approx(8 / 9, abs=1e-3)


def test_evaluate_after_a_fit_and_after_loading(
    fitted: tuple[DLEstimator, DLModel], table: DataFrame, tmp_path: Path
) -> None:
    est, model = fitted
    again = est.copy({est.epochs: 3, est.weightCol: "w"}).fit(table)
    assert again.getWeightCol() == "w"
    first = est.copy({est.epochs: 1, est.learningRate: 1e-30}).fit(table)
    # the metrics of an epoch are those before its one step
    assert first.evaluate(table) == pytest.approx({k: v[0] for k, v in first.history.items()})
    model.save(str(tmp_path / "model"))
    found = DLModel.load(str(tmp_path / "model")).evaluate(table)
    assert found == pytest.approx(model.evaluate(table))


def test_evaluate_refuses(fitted: tuple[DLEstimator, DLModel], table: DataFrame) -> None:
    model = fitted[1]
    with pytest.raises(ConfigurationError, match="compiled with a loss"):
        DLModel(labelCol="y").setModel(linear()).evaluate(table)
    with pytest.raises(ConfigurationError, match="label column 'nothing' is not in"):
        model.copy({model.labelCol: "nothing"}).evaluate(table)
    with pytest.raises(DataError, match="has no rows"):
        model.evaluate(table.filter("id < 0"))
    with pytest.raises(
        DataError, match="All rows have weight 0, by weight column 'none': the loss"
    ):
        model.copy({model.weightCol: "none"}).evaluate(table.withColumn("none", F.lit(0)))
    bad = table.withColumn("label", F.expr("if(id = 3, 9, label)"))
    with pytest.raises(
        DataError, match=r"1 of 8 rows is not valid:\n  'label' \(label\): 1 outside"
    ):
        model.evaluate(bad)
    skipping = model.copy({model.handleInvalid: "skip"})
    assert skipping.evaluate(bad) == pytest.approx(model.evaluate(table.filter("id != 3")))
    for act in (model.evaluate, model.transform):
        with pytest.raises(ConfigurationError, match=r"dataset must be a pyspark\.sql\.DataFrame"):
            act(table.toPandas())


def test_evaluate_refuses_a_loss_that_is_no_mean(table: DataFrame) -> None:
    net = linear()
    net.compile("sgd", keras.losses.MeanSquaredError(reduction="sum"))
    with pytest.raises(ConfigurationError, match="Got a loss with reduction='sum'"):
        DLModel(labelCol="y").setModel(net).evaluate(table)


class Largest(keras.metrics.Metric):  # type: ignore[misc]
    """Largest label."""

    def __init__(self, name: str = "largest", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.value = self.add_variable((), "zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.value.assign(keras.ops.maximum(self.value, keras.ops.max(y_true)))

    def result(self) -> Any:
        return self.value


@keras.saving.register_keras_serializable("spark_citizen")
class SilentLargest(Largest):
    pass


@keras.saving.register_keras_serializable("spark_citizen")
class MergedLargest(Largest):
    def merge_state(self, metrics: Any) -> None:
        self.value.assign(max(float(metric.value) for metric in [self, *metrics]))


def test_a_metric_of_the_user_says_how_it_merges(table: DataFrame) -> None:
    net = linear()
    net.compile("sgd", "mse", metrics=[MergedLargest()])
    model = DLModel(labelCol="y").setModel(net)
    assert model.evaluate(table)["largest"] == max(Y) == 10.0
    net.compile("sgd", "mse", metrics=[SilentLargest()])
    with pytest.raises(ConfigurationError, match="SilentLargest 'largest' does not say how"):
        DLModel(labelCol="y").setModel(net).evaluate(table)


@keras.saving.register_keras_serializable("spark_citizen")
class OwnLogs(keras.Sequential):  # type: ignore[misc]
    def test_step(self, data: Any) -> Any:
        return {**super().test_step(data), "mine": 1.0}


def test_evaluate_refuses_logs_that_are_no_metrics(table: DataFrame) -> None:
    net = OwnLogs([keras.Input((2,)), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    with pytest.raises(ModelError, match=r"test_step of OwnLogs returns .*'mine', its metrics are"):
        DLModel(labelCol="y").setModel(net).evaluate(table)


@keras.saving.register_keras_serializable("spark_citizen")
class NoRow(keras.layers.Layer):  # type: ignore[misc]
    """Fails when it is called with rows, not when the network is built."""

    def call(self, rows: Any) -> Any:
        import tensorflow as tf

        with tf.control_dependencies([tf.debugging.assert_less(rows, -1.0, "no row is good")]):
            return tf.identity(rows)


def test_a_network_that_fails_while_it_evaluates_or_predicts(table: DataFrame) -> None:
    net = keras.Sequential([keras.Input((2,)), NoRow(), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    model = DLModel(labelCol="y").setModel(net)
    with pytest.raises(ModelError, match=r"^Evaluation failed on .*Error: .*no row is good"):
        model.evaluate(table)
    with pytest.raises(ModelError, match=r"^The network fails on this row(?s:.*)no row is good"):
        model.predict([1.0, 2.0])
