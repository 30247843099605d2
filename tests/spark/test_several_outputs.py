"""Networks of several outputs: `evaluate` as Keras does it on arrays, and CrossValidator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml.evaluation import BinaryClassificationEvaluator, RegressionEvaluator
from pyspark.ml.linalg import Vectors
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession

from spark_dlobd import DLEstimator, DLModel
from spark_dlobd.errors import ConfigurationError

keras = pytest.importorskip("keras")

ROWS = 48
RNG = np.random.default_rng(7)
WIDE, DEEP = RNG.normal(size=(ROWS, 3)), RNG.normal(size=(ROWS, 2))
CLICKED = (WIDE[:, 0] > 0).astype(int)
STARS = WIDE[:, 1] - DEEP[:, 0]
TAGS = (RNG.random((ROWS, 3)) > 0.5).astype(int)
MASK = RNG.integers(0, 3, (ROWS, 2))
W, V = 1.0 + np.arange(ROWS) % 3, 0.5 + np.arange(ROWS) % 2
X = {"wide": WIDE, "deep": DEEP}
Y = {"clicked": CLICKED, "stars": STARS, "tags": TAGS, "mask": MASK}
LOSSES = {
    "clicked": "binary_crossentropy",
    "stars": "mse",
    "tags": "binary_crossentropy",
    "mask": "sparse_categorical_crossentropy",
}
METRICS = {"clicked": ["accuracy", "AUC"], "stars": ["mae"], "mask": ["accuracy"]}


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rows = [
        (
            Vectors.dense(WIDE[i]),
            float(DEEP[i, 0]),
            float(DEEP[i, 1]),
            int(CLICKED[i]),
            float(STARS[i]),
            Vectors.dense(TAGS[i]),
            [int(v) for v in MASK[i]],
            float(W[i]),
            float(V[i]),
        )
        for i in range(ROWS)
    ]
    names = ["wide", "d0", "d1", "clicked", "stars", "tags", "mask", "w", "v"]
    return spark.createDataFrame(rows, names).repartition(3).cache()


def network(kind: type = list, names: Any = ("clicked", "stars")) -> Any:
    keras.utils.set_random_seed(1)
    wide, deep = keras.Input((3,), name="wide"), keras.Input((2,), name="deep")
    both = keras.layers.Concatenate(name="both")([wide, deep])
    heads = {
        "clicked": keras.layers.Dense(1, "sigmoid", name="clicked")(both),
        "stars": keras.layers.Dense(1, name="stars")(both),
        "tags": keras.layers.Dense(3, "sigmoid", name="tags")(both),
        "mask": keras.layers.Softmax(name="mask")(
            keras.layers.Reshape((2, 3))(keras.layers.Dense(6)(both))
        ),
        "both": both,
    }
    outputs = {name: heads[name] for name in names}
    return keras.Model([wide, deep], outputs if kind is dict else list(outputs.values()))


def settings(names: Any) -> dict[str, Any]:
    return {
        "inputs": {"wide": "wide", "deep": ["d0", "d1"]},
        "labels": {name: name for name in names if name in Y},
    }


def estimator(**changes: Any) -> DLEstimator:
    names = ("clicked", "stars")
    given: dict[str, Any] = {
        "model": network(),
        **settings(names),
        "loss": {name: LOSSES[name] for name in names},
        "optimizer": "sgd",
        "batchSize": 16,
        "tracking": "none",
        "verbose": 0,
    }
    return DLEstimator(**{**given, **changes})


@pytest.mark.parametrize("kind", [list, dict])
@pytest.mark.parametrize("weights", [None, "w", {"clicked": "w", "stars": "v"}])
def test_evaluate_is_that_of_keras_on_arrays(table: DataFrame, kind: type, weights: Any) -> None:
    names = ("stars", "clicked", "both")
    net = network(kind, names)
    by_output = {
        "loss": {**losses_of(names), "both": None},
        "loss_weights": {"clicked": 2.0, "stars": 0.5, "both": 1.0},
        "metrics": {**{name: METRICS[name] for name in names if name in Y}, "both": []},
        "weighted_metrics": {"stars": ["mse"], "clicked": ["Precision"], "both": []},
    }
    net.compile("sgd", **by_output)
    model = DLModel(weightCol=weights, **settings(names)).setModel(net)
    told = model.evaluate(table)
    assert told == pytest.approx(keras_says(net, kind, names, weights), rel=1e-4)
    assert {"loss", "stars_loss", "clicked_loss", "clicked_accuracy", "clicked_AUC"} <= set(told)
    assert told["loss"] == pytest.approx(2 * told["clicked_loss"] + told["stars_loss"] / 2)


def losses_of(names: Any) -> dict[str, str]:
    return {name: LOSSES[name] for name in names if name in LOSSES}


def keras_says(net: Any, kind: type, names: Any, weights: Any) -> dict[str, float]:
    """All rows in one batch, because Keras counts batches in the losses by output."""

    def packed(by_name: dict[str, Any]) -> Any:
        return by_name if kind is dict else [by_name[name] for name in names]

    none = dict.fromkeys(names)
    arrays = {"w": W, "v": V}
    given: Any = arrays.get(weights) if isinstance(weights, str) else None
    if isinstance(weights, dict):
        given = packed({**none, **{name: arrays[one] for name, one in weights.items()}})
    y = packed({**none, **{name: Y[name] for name in names if name in Y}})
    x = [WIDE, DEEP]
    if given is not None and not isinstance(weights, dict):
        given = packed({**none, **{name: given for name in names if name in Y}})
    return dict(
        net.evaluate(x, y, sample_weight=given, batch_size=ROWS, verbose=0, return_dict=True)
    )


@pytest.mark.parametrize("weight", [None, "w"])
def test_evaluate_with_labels_and_classes_of_each_position(table: DataFrame, weight: Any) -> None:
    names = ("tags", "mask", "clicked")
    net = network(dict, names)
    net.compile("sgd", loss=losses_of(names), metrics={"mask": ["accuracy"]})
    model = DLModel(weightCol=weight, **settings(names)).setModel(net)
    shaped = {"tags": W, "mask": W[:, None], "clicked": W}
    expected = net.evaluate(
        [WIDE, DEEP],
        {name: Y[name] for name in names},
        sample_weight=shaped if weight else None,
        batch_size=ROWS,
        verbose=0,
        return_dict=True,
    )
    assert model.evaluate(table) == pytest.approx(expected, rel=1e-4)
    scored = model.transform(table)
    types = dict(scored.dtypes)
    assert types["tags_prediction"] == types["mask_prediction"] == "array<double>"
    assert types["tags_probability"] == types["clicked_probability"] == "vector"
    assert scored.schema["mask_probability"].metadata == {"spark_dlobd": {"shape": [2, 3]}}
    row = scored.first()
    assert row is not None
    one = model.predict({"wide": row.wide, "deep": [row.d0, row.d1]})
    assert one == {name: row[f"{name}_prediction"] for name in names}


def test_a_fit_with_labels_and_classes_of_each_position(table: DataFrame) -> None:
    names = ("tags", "mask", "clicked")
    own = estimator(
        model=network(dict, names),
        loss=losses_of(names),
        weightCol="w",
        learningRate=0.1,
        batchSize=ROWS,
        **settings(names),
    )
    fitted = own.fit(table).getKerasModel()
    net = network(dict, names)
    net.compile(keras.optimizers.SGD(0.1), loss=losses_of(names))
    shaped = {"tags": W, "mask": W[:, None], "clicked": W}
    net.train_on_batch([WIDE, DEEP], {name: Y[name] for name in names}, shaped)
    for found, expected in zip(fitted.get_weights(), net.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classWeight": {0: 2.0}},
            r"classWeight is for a network of one output\. Got \{0: 2\.0\} for 2: give each output "
            r"a weightCol, as in weightCol=\{'output': 'column'\}\.",
        ),
        (
            {"thresholds": [1.0, 2.0]},
            r"thresholds are for a network of one output\. Got \[1\.0, 2\.0\] for 2: apply them to "
            r"the columns of probabilities\.",
        ),
    ],
)
def test_what_is_for_one_output(table: DataFrame, changes: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        estimator(**changes).fit(table)


@pytest.mark.parametrize("output", ["clicked", "stars"])
def test_cross_validator_over_one_of_the_outputs(table: DataFrame, output: str) -> None:
    evaluator: Any = RegressionEvaluator(predictionCol="stars_prediction", labelCol="stars")
    if output == "clicked":
        evaluator = BinaryClassificationEvaluator(
            rawPredictionCol="clicked_rawPrediction", labelCol="clicked", weightCol="w"
        )
    own = estimator(epochs=3, weightCol={"clicked": "w", "stars": "v"})
    grid = ParamGridBuilder().addGrid(own.learningRate, [1e-6, 0.3]).build()
    folds = CrossValidator(
        estimator=own, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, seed=1
    ).fit(table)
    slow, fast = folds.avgMetrics
    assert fast > slow if evaluator.isLargerBetter() else fast < slow
    best = folds.bestModel
    assert best.getOrDefault("labels") == {"clicked": "clicked", "stars": "stars"}
    assert evaluator.evaluate(best.transform(table)) == pytest.approx(
        evaluator.evaluate(folds.transform(table))
    )
    assert set(best.predict({"wide": [0.0] * 3, "deep": [0.0] * 2})) == {"clicked", "stars"}


@pytest.mark.timeout(180)
def test_streaming(table: DataFrame, spark: SparkSession, tmp_path: Path) -> None:
    """A stream of three columns for two inputs: the numbers of a batch."""
    fitted = estimator().fit(table)
    source = str(tmp_path / "in")
    table.coalesce(1).write.parquet(source)
    stream = spark.readStream.schema(table.schema).parquet(source)
    scored = fitted.transform(stream)
    query = (
        scored.writeStream.format("memory").queryName("several").trigger(availableNow=True).start()
    )
    assert query.awaitTermination(120)
    names = ["d0", "clicked_probability", "clicked_prediction", "stars_prediction"]
    found = spark.table("several").select(names).orderBy("d0").collect()
    wanted = fitted.transform(table).select(names).orderBy("d0").collect()
    assert len(found) == ROWS
    for one, other in zip(found, wanted, strict=True):
        assert one.clicked_prediction == other.clicked_prediction
        assert one.stars_prediction == pytest.approx(other.stars_prediction, rel=1e-5)
        np.testing.assert_allclose(
            one.clicked_probability.toArray(), other.clicked_probability.toArray(), rtol=1e-5
        )
