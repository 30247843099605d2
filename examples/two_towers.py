"""Films for people: a recommender of two towers that learns clicks and stars together.

Run it with ``python examples/two_towers.py``. Each person and each film has an embedding; a click
is likely where the two point the same way. The network gives the towers too, so one `transform`
writes the embeddings that a search for the nearest films needs.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from _session import spark_session

from spark_dlobd import DLEstimator

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PEOPLE, FILMS, TASTES = 300, 120, 4


def visits(spark: SparkSession, rows: int) -> DataFrame:
    """Generated: everybody and every film has a taste; stars are known where there was a click."""
    import numpy as np

    generator = np.random.default_rng(11)
    person, film = generator.integers(0, PEOPLE, rows), generator.integers(0, FILMS, rows)
    liked = person % TASTES == film % TASTES
    clicked = generator.random(rows) < np.where(liked, 0.9, 0.1)
    stars = np.clip(np.where(liked, 4.5, 2.0) + generator.normal(0, 0.5, rows), 1, 5)
    table = zip(person.tolist(), film.tolist(), clicked.tolist(), stars.tolist(), strict=True)
    frame = spark.createDataFrame(
        list(table), "person int, film int, clicked boolean, stars double"
    )
    return frame.selectExpr("*", "double(clicked) known").repartition(2, "person").cache()


def towers(width: int) -> Any:
    """Click and stars from the product of two embeddings, and the embeddings themselves."""
    import keras

    keras.utils.set_random_seed(1)
    person = keras.Input((1,), dtype="int32", name="person")
    film = keras.Input((1,), dtype="int32", name="film")
    flat = keras.layers.Flatten
    of_person = flat(name="person_tower")(keras.layers.Embedding(PEOPLE, width)(person))
    of_film = flat(name="film_tower")(keras.layers.Embedding(FILMS, width)(film))
    product = keras.layers.Multiply()([of_person, of_film])
    return keras.Model(
        {"person": person, "film": film},
        {
            "clicked": keras.layers.Dense(1, activation="sigmoid")(product),
            "stars": keras.layers.Dense(1)(product),
            "person_tower": of_person,
            "film_tower": of_film,
        },
    )


def run(spark: SparkSession, options: argparse.Namespace) -> None:
    """Train on nine tenths, judge on the rest, and write down the films."""
    from pyspark.ml.evaluation import BinaryClassificationEvaluator, RegressionEvaluator

    train, test = visits(spark, options.rows).randomSplit([0.9, 0.1], seed=2)
    fitted = DLEstimator(
        model=towers(options.width),
        inputs={"person": "person", "film": "film"},
        labels={"clicked": "clicked", "stars": "stars"},
        loss={"clicked": "binary_crossentropy", "stars": "mse"},
        lossWeights={"stars": 0.2},
        # nobody has rated what he has not clicked
        weightCol={"stars": "known"},
        metrics={"clicked": ["auc"]},
        optimizer="adam",
        learningRate=0.02,
        batchSize=128,
        epochs=options.epochs,
        numTrainWorkers=options.workers,
        backend=options.backend,
        tracking="none",
    ).fit(train)
    scored = fitted.transform(test).cache()
    area = BinaryClassificationEvaluator(
        labelCol="clicked", rawPredictionCol="clicked_rawPrediction"
    ).evaluate(scored.withColumn("clicked", scored.clicked.cast("double")))
    rated = scored.filter("clicked")
    error = RegressionEvaluator(
        labelCol="stars", predictionCol="stars_prediction", metricName="mae"
    ).evaluate(rated)
    print(f"clicks: area under ROC {area:.3f}; stars: {error:.2f} off on average")
    films = scored.select("film", "film_tower_prediction").dropDuplicates(["film"])
    print(f"{films.count()} films as vectors of {options.width} numbers")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a recommender of two towers.")
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--master", default="local[2]", help="of Spark")
    options = parser.parse_args()
    with spark_session("two-towers", options.master) as spark:
        run(spark, options)


if __name__ == "__main__":
    main()
