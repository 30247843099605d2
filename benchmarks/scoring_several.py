"""Rows per second of `DLModel.transform` with three inputs against `keras.Model.predict`.

Run with ``python -m benchmarks.scoring_several``. Pixels, ten columns of numbers side by side and
a sequence of tokens go into one network of two outputs. Both sides score the same number of
generated rows, in turns, as in `benchmarks.scoring`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks.scoring import in_turns, session, summary

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

PIXELS, NUMBERS, TOKENS, WORDS = 784, 10, 16, 1000
COLUMNS = [f"n{i}" for i in range(NUMBERS)]


def network() -> Any:
    import keras

    photo = keras.Input((28, 28, 1), name="photo")
    numbers = keras.Input((NUMBERS,), name="numbers")
    tokens = keras.Input((TOKENS,), dtype="int32", name="tokens")
    seen = keras.layers.Conv2D(20, 5, activation="relu")(photo)
    seen = keras.layers.Flatten()(keras.layers.MaxPooling2D(4)(seen))
    said = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(WORDS, 16)(tokens))
    joined = keras.layers.Concatenate()([seen, numbers, said])
    hidden = keras.layers.Dense(200, activation="relu")(joined)
    kind = keras.layers.Dense(10, activation="softmax", name="kind")(hidden)
    price = keras.layers.Dense(1, name="price")(hidden)
    return keras.Model([photo, numbers, tokens], {"kind": kind, "price": price})


def generate(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Runs on each worker. Random rows."""
    import pyarrow as pa

    for batch in batches:
        count = batch.num_rows
        draw = np.random.default_rng(batch.column(0)[0].as_py() if count else 0)

        def lists(values: Any, width: int, count: int = count) -> Any:
            offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
            return pa.ListArray.from_arrays(offsets, pa.array(values))

        pixels = lists(draw.random(count * PIXELS, np.float32), PIXELS)
        tokens = lists(draw.integers(0, WORDS, count * TOKENS, np.int32), TOKENS)
        numbers = [pa.array(draw.random(count, np.float32)) for _ in COLUMNS]
        yield pa.RecordBatch.from_arrays([pixels, tokens, *numbers], ["pixels", "tokens", *COLUMNS])


def cached_rows(spark: SparkSession, rows: int, partitions: int) -> DataFrame:
    numbers = ", ".join(f"{name} float" for name in COLUMNS)
    schema = f"pixels array<float>, tokens array<int>, {numbers}"
    df = spark.range(0, rows, 1, partitions).mapInArrow(generate, schema).cache()
    assert df.count() == rows
    return df


@click.command()
@click.option("--rows", default=60_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--batch-size", default=256, show_default=True)
def main(rows: int, rounds: int, batch_size: int) -> None:
    """Print rows per second of both and, last, one JSON object."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    from spark_dlobd.estimators.model import DLModel

    cores = len(os.sched_getaffinity(0))
    spark = session(cores)
    model, net = DLModel(predictBatchSize=batch_size), network()
    model.setInputs({"photo": "pixels", "numbers": COLUMNS, "tokens": "tokens"})
    model.setModel(net)
    df = cached_rows(spark, rows, cores)
    draw = np.random.default_rng(0)
    arrays = {
        "photo": draw.random((rows, 28, 28, 1), np.float32),
        "numbers": draw.random((rows, NUMBERS), np.float32),
        "tokens": draw.integers(0, WORDS, (rows, TOKENS), np.int32),
    }
    contenders = {
        "keras": lambda: net.predict(arrays, verbose=0),
        "keras_same_batch": lambda: net.predict(arrays, batch_size=batch_size, verbose=0),
        "spark": lambda: model.transform(df).write.format("noop").mode("overwrite").save(),
    }
    rates, cpu = in_turns(contenders, rows, rounds)
    spark.stop()
    facts = {"rows": rows, "batch_size": batch_size, "cores": cores}
    print(json.dumps(summary("scoring_several", rates, cpu, **facts)))


if __name__ == "__main__":
    main()
