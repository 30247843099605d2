"""Clicks from hashed categories: a wide-and-deep network whose tables live on servers.

Run it with ``python examples/wide_and_deep.py``. Two embedding tables of a million rows
are cut over two parameter servers; a step moves only the rows that its batch needs.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from _session import spark_session

from spark_dlobd import DLEstimator, ParameterServerConfig

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

CATEGORIES = ["user", "item", "city", "device"]


def clicks(spark: SparkSession, rows: int) -> DataFrame:
    """Generated: some items are liked by users of some cities, with one answer in ten wrong."""
    from pyspark.sql import functions as F

    def pick(seed: int, choices: int, prefix: str) -> Column:
        number = F.floor(F.rand(seed) * choices).cast("string")
        return F.concat(F.lit(prefix), number)

    frame = spark.range(rows, numPartitions=2).select(
        pick(1, 2000, "u").alias("user"),
        pick(2, 300, "i").alias("item"),
        pick(3, 20, "c").alias("city"),
        pick(4, 3, "d").alias("device"),
        F.rand(5).alias("noise"),
    )
    liked = F.crc32("item") % 2 == 0
    at_home = F.crc32("city") % 5 != 0
    wrong = F.col("noise") < 0.1
    return frame.withColumn("clicked", ((liked & at_home) != wrong).cast("int")).cache()


def hashed(frame: DataFrame, buckets: int) -> DataFrame:
    """The row of the tables that each category has, and each pair of item and city."""
    from pyspark.sql import functions as F

    def row(*names: str) -> Column:
        # names are hashed too, so that equal values of two columns differ
        return F.pmod(F.xxhash64(F.lit(" ".join(names)), *names), F.lit(buckets)).cast("int")

    rows = {f"{name}_row": row(name) for name in CATEGORIES}
    return frame.withColumns({**rows, "item_and_city": row("item", "city")})


def wide_and_deep(buckets: int) -> Any:
    """Sum of a linear model over pairs (wide) and a network over embeddings (deep).

    After Cheng et al., "Wide & Deep Learning for Recommender Systems", 2016.
    """
    import keras

    keras.utils.set_random_seed(1)
    pair = keras.Input((1,), dtype="int32", name="wide")
    ids = keras.Input((len(CATEGORIES),), dtype="int32", name="deep")
    deep = keras.layers.Flatten()(keras.layers.Embedding(buckets, 16)(ids))
    deep = keras.layers.Dense(32, activation="relu")(deep)
    wide = keras.layers.Flatten()(keras.layers.Embedding(buckets, 1)(pair))
    joined = keras.layers.Concatenate()([deep, wide])
    return keras.Model([pair, ids], keras.layers.Dense(1, activation="sigmoid")(joined))


def run(spark: SparkSession, options: argparse.Namespace) -> None:
    """Train on nine tenths and judge on the rest."""
    from pyspark.ml.evaluation import BinaryClassificationEvaluator

    train, test = hashed(clicks(spark, options.rows), options.buckets).randomSplit([0.9, 0.1], 7)
    estimator = DLEstimator(
        model=wide_and_deep(options.buckets),
        loss="binary_crossentropy",
        optimizer="adagrad",
        learningRate=0.1,
        metrics=["auc"],
        inputs={"wide": "item_and_city", "deep": [f"{name}_row" for name in CATEGORIES]},
        labelCol="clicked",
        backend=ParameterServerConfig(num_ps=options.servers),
        numTrainWorkers=options.workers,
        batchSize=256,
        epochs=options.epochs,
        tracking="none",
    )
    fitted = estimator.fit(train)
    report = fitted.report
    print(
        f"{report['workers']} workers, {report['servers']} servers, tables of "
        f"{options.buckets:,} rows"
    )
    rate = options.epochs * report["rows_per_epoch"] / sum(report["epoch_seconds"])
    print(f"{rate:,.0f} rows/s, staleness {report['staleness']['mean']:.2f} updates on average")
    print("loss by epoch:", " ".join(f"{loss:.4f}" for loss in fitted.history["loss"]))
    evaluator = BinaryClassificationEvaluator(labelCol="clicked")
    print(f"area under ROC {evaluator.evaluate(fitted.transform(test)):.4f}")
    unseen = fitted.evaluate(test)
    print(f"loss {unseen['loss']:.4f} on rows it has not seen, auc {unseen['auc']:.4f} by Keras")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train wide-and-deep with parameter servers.")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--buckets", type=int, default=1_000_000, help="rows of each table")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--master", help="of Spark; default: local, one slot for each worker")
    options = parser.parse_args()
    with spark_session("wide-and-deep", options.master or f"local[{options.workers}]") as spark:
        run(spark, options)


if __name__ == "__main__":
    main()
