"""Rows/s of wide-and-deep with tables of a million rows, against Horovod over Gloo.

``python -m benchmarks.parameter_server_sparse [--rows 10240] [--table 1000000]``. Both
through the same estimator with the same global batch; Adagrad, which means the same with
whole and with sparse gradients.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np

from benchmarks._mnist import WORKERS, print_result, session
from spark_dlobd import DLEstimator, HorovodConfig, ParameterServerConfig

COLUMNS = 8


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_240)
    parser.add_argument("--table", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    spark = session()
    draw = np.random.default_rng(0)
    ids = draw.integers(0, options.table, (options.rows, COLUMNS))
    clicks = (ids % 7).sum(axis=1) > 3 * COLUMNS
    rows = [(row.tolist(), int(y)) for row, y in zip(ids, clicks, strict=True)]
    df = spark.createDataFrame(rows, "features array<int>, label int").repartition(4).cache()
    df.count()
    model = wide_and_deep(options.table)
    backends = {"parameter_server": ParameterServerConfig(num_ps=2), "horovod": HorovodConfig()}
    seconds: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    for name, backend in backends.items():
        fitted = DLEstimator(
            model=model,
            loss="binary_crossentropy",
            optimizer="adagrad",
            learningRate=0.05,
            backend=backend,
            numTrainWorkers=WORKERS,
            batchSize=options.batch,
            epochs=options.epochs,
            tracking="none",
            verbose=0,
        ).fit(df)
        seconds[name] = fitted.report["epoch_seconds"][1:]
        losses[name] = [round(loss, 4) for loss in fitted.history["loss"]]
        print(name, [round(options.rows / s) for s in seconds[name]], "rows/s", flush=True)
    spark.stop()
    rates = {name: options.rows / statistics.median(values) for name, values in seconds.items()}
    print_result(
        "parameter_server_sparse",
        rates["parameter_server"] / rates["horovod"],
        wanted="> 1",
        against="horovod-gloo through the same estimator",
        rows_per_s={name: round(value) for name, value in rates.items()},
        losses=losses,
        table=[options.table, 16],
    )


def wide_and_deep(table: int) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    ids = keras.Input((COLUMNS,), dtype="int32")
    deep = keras.layers.Flatten()(keras.layers.Embedding(table, 16)(ids))
    for units in (64, 32):
        deep = keras.layers.Dense(units, activation="relu")(deep)
    wide = keras.layers.Flatten()(keras.layers.Embedding(table, 1)(ids))
    joined = keras.layers.Concatenate()([deep, wide])
    return keras.Model(ids, keras.layers.Dense(1, activation="sigmoid")(joined))


if __name__ == "__main__":
    main()
