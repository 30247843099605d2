"""Letters of customers to departments: a network that takes the text itself.

Run it with ``python examples/text_classification.py``. The words become numbers inside the
network, in a TextVectorization layer, so the fitted pipeline takes text wherever it is loaded.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import TYPE_CHECKING, Any

from _session import spark_session

from spark_dlobd import DLEstimator

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ABOUT = {
    "billing": ["invoice", "refund", "charged", "payment", "price", "receipt", "card"],
    "delivery": ["parcel", "courier", "late", "address", "tracking", "lost", "package"],
    "repairs": ["broken", "screen", "battery", "noise", "warranty", "repair", "crack"],
}
FILLING = ["hello", "please", "my", "the", "was", "is", "again", "order", "thanks", "today", "help"]
WORDS = 24


def letters(spark: SparkSession, count: int) -> DataFrame:
    """Generated: a few words that tell among many that do not; one in twenty goes elsewhere."""
    import numpy as np

    generator = np.random.default_rng(3)
    rows = []
    for _ in range(count):
        department = str(generator.choice(list(ABOUT)))
        telling = generator.choice(ABOUT[department], generator.integers(1, 4))
        words = [*telling, *generator.choice(FILLING, generator.integers(3, 20))]
        generator.shuffle(words)
        if generator.random() < 0.05:
            department = str(generator.choice(list(ABOUT)))
        rows.append((" ".join(map(str, words)), department))
    return spark.createDataFrame(rows, ["letter", "department"]).repartition(2, "letter").cache()


def network(sample: list[str]) -> Any:
    """Mean of the embedded words; the vocabulary is that of `sample`."""
    import keras

    keras.utils.set_random_seed(1)
    words = keras.layers.TextVectorization(max_tokens=500, output_sequence_length=WORDS)
    words.adapt(sample)
    return keras.Sequential(
        [
            keras.Input((1,), dtype="string", name="letter"),
            words,
            keras.layers.Embedding(500, 16, mask_zero=True),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(len(ABOUT), activation="softmax"),
        ]
    )


def run(spark: SparkSession, folder: str, options: argparse.Namespace) -> None:
    """Train on four fifths, save, load, and judge on the rest."""
    from pyspark.ml import Pipeline, PipelineModel
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator
    from pyspark.ml.feature import IndexToString, StringIndexer

    train, test = letters(spark, options.letters).randomSplit([0.8, 0.2], seed=5)
    sample = [row.letter for row in train.select("letter").take(1000)]
    indexer = StringIndexer(inputCol="department", outputCol="label").fit(train)
    estimator = DLEstimator(
        model=network(sample),
        featuresCol="letter",
        loss="sparse_categorical_crossentropy",
        optimizer="adam",
        learningRate=0.02,
        metrics=["accuracy"],
        batchSize=32,
        epochs=options.epochs,
        tracking="none",
    )
    words = IndexToString(inputCol="prediction", outputCol="goes to", labels=indexer.labels)
    Pipeline(stages=[indexer, estimator, words]).fit(train).save(f"{folder}/pipeline")
    fitted = PipelineModel.load(f"{folder}/pipeline")
    scored = fitted.transform(test)
    accuracy = MulticlassClassificationEvaluator(metricName="accuracy").evaluate(scored)
    print(f"accuracy {accuracy:.3f} on {test.count()} letters it has not seen")
    new = spark.createDataFrame([("hello my parcel is lost",), ("card charged again",)], ["letter"])
    for row in fitted.transform(new).select("letter", "goes to").collect():
        print(f"{row['letter']!r} goes to {row['goes to']}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on text as it is.")
    parser.add_argument("--letters", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--master", default="local[2]", help="of Spark")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, spark_session("text", options.master) as spark:
        run(spark, folder, options)


if __name__ == "__main__":
    main()
