"""Learning rate and batch size of a Keras model chosen by Spark's CrossValidator.

Run it with ``python examples/cross_validation.py``.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from _session import spark_session

from spark_dlobd import DLEstimator, reuse_data

if TYPE_CHECKING:
    from pyspark.ml.tuning import CrossValidator, CrossValidatorModel
    from pyspark.sql import DataFrame, SparkSession

FOLDS = 3


def tumours(spark: SparkSession) -> DataFrame:
    """569 breast tumours: 30 measurements each, label 1 for benign."""
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F
    from sklearn.datasets import load_breast_cancer

    values, labels = load_breast_cancer(return_X_y=True)
    rows = [(row.tolist(), float(label)) for row, label in zip(values, labels, strict=True)]
    table = spark.createDataFrame(rows, "values array<double>, label double")
    return table.withColumn("measured", array_to_vector(F.col("values")))


def network() -> Any:
    import keras

    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((30,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )


def cross_validator() -> CrossValidator:
    """The scaler is inside, so that it learns from the training rows of a fold alone."""
    from pyspark.ml import Pipeline
    from pyspark.ml.evaluation import BinaryClassificationEvaluator
    from pyspark.ml.feature import StandardScaler
    from pyspark.ml.tuning import CrossValidator, ParamGridBuilder

    scaler = StandardScaler(inputCol="measured", outputCol="features", withMean=True)
    estimator = (
        DLEstimator(model=network(), loss="binary_crossentropy", optimizer="adam")
        .setEpochs(3)
        .setTracking("none")
        .setVerbose(0)  # of 13 fits
    )
    grid = (
        ParamGridBuilder()
        .addGrid(estimator.learningRate, [0.02, 0.002])
        .addGrid(estimator.batchSize, [16, 64])
        .build()
    )
    return CrossValidator(
        estimator=Pipeline(stages=[scaler, estimator]),
        estimatorParamMaps=grid,
        evaluator=BinaryClassificationEvaluator(),
        numFolds=FOLDS,
        parallelism=2,
        seed=1,
        collectSubModels=True,
    )


def print_results(validator: CrossValidator, chosen: CrossValidatorModel) -> None:
    """Each combination with its area under the ROC curve over the folds."""
    print("learningRate  batchSize  area under ROC")
    results = zip(
        validator.getEstimatorParamMaps(), chosen.avgMetrics, chosen.stdMetrics, strict=True
    )
    for params, mean, deviation in sorted(results, key=lambda result: -result[1]):
        values = {param.name: value for param, value in params.items()}
        print(f"{values['learningRate']:<12}  {values['batchSize']:<9}  ", end="")
        print(f"{mean:.4f} +- {deviation:.4f}")
    models: list[Any] = list(chain.from_iterable(chosen.subModels or []))
    written = {model.stages[1].report["data_url"] for model in models}
    print(f"{len(models)} models were fitted on {len(written)} materialized folds.")


def main() -> None:
    with spark_session("cross-validation") as spark:
        validator = cross_validator()
        # Every pipeline transforms its fold anew. Inside reuse_data the rows are written
        # once a fold. A DLEstimator that is tuned without a Pipeline does it by itself.
        with reuse_data():
            chosen = validator.fit(tumours(spark))
        print_results(validator, chosen)


if __name__ == "__main__":
    main()
