"""Milliseconds per step against steps per scheduled call, with a model of no weight.

``python -m benchmarks.parameter_server_steps_per_call``. The step itself is small, so what
is seen is the coordinator's and the transport's share.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np

from benchmarks._mnist import WORKERS, print_result, session
from spark_dlobd import DLEstimator, ParameterServerConfig

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=512, help="of one epoch")
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    options = parser.parse_args()
    import keras

    spark = session()
    values = np.random.default_rng(0).normal(size=(options.steps * BATCH, 8))
    rows = [(row.tolist(), float(row.sum())) for row in values]
    df = spark.createDataFrame(rows, "features array<double>, label double").repartition(4).cache()
    df.count()
    per_step: dict[int, float] = {}
    for steps in options.calls:
        fitted = DLEstimator(
            model=keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]),
            loss="mse",
            optimizer="sgd",
            backend=ParameterServerConfig(steps_per_call=steps),
            numTrainWorkers=WORKERS,
            batchSize=BATCH,
            epochs=4,
            tracking="none",
            verbose=0,
        ).fit(df)
        seconds = statistics.median(fitted.report["epoch_seconds"][1:])
        per_step[steps] = 1000 * seconds / options.steps
        print(f"{steps} steps a call: {per_step[steps]:.2f} ms a step", flush=True)
    spark.stop()
    print_result(
        "parameter_server_steps_per_call",
        per_step[options.calls[0]] / per_step[options.calls[-1]],
        unit=f"ms per step at {options.calls[0]} / at {options.calls[-1]} steps a call",
        ms_per_step={str(steps): round(value, 2) for steps, value in per_step.items()},
    )


if __name__ == "__main__":
    main()
