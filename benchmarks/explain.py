"""Seconds per epoch that `explain` predicts against those of fits, LeNet on MNIST.

``python -m benchmarks.explain [--epochs 3] [--rows 12800] [--ways shuffle ...]``. Explains
first, then fits with each way and 2 and 1 workers. Measured is the median of all epochs but
the first, which also traces the model. The figure is the largest relative error.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks._mnist import WORKERS, estimator, frame, mnist, print_result, session
from spark_dlobd import HorovodConfig, ParameterServerConfig, ShuffleConfig

WAYS: dict[str, Any] = {
    "horovod, gloo": HorovodConfig(),
    "shuffle": ShuffleConfig(),
    "parameter_server": ParameterServerConfig(),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=12_800)
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--workers", type=int, nargs="+", default=[WORKERS, 1])
    options = parser.parse_args()
    (x, y), _ = mnist()
    spark = session()
    df = frame(spark, x[: options.rows], y[: options.rows])
    found = estimator(epochs=options.epochs).explain(df, options.workers)
    print(found, flush=True)
    lines, errors = {}, []
    for name in options.ways:
        for workers in options.workers:
            predicted = found.prediction(name, workers)
            assert predicted is not None
            report = (
                estimator(epochs=options.epochs, backend=WAYS[name], numTrainWorkers=workers)
                .fit(df)
                .report
            )
            measured = statistics.median(report["epoch_seconds"][1:])
            errors.append(abs(predicted.epoch_s / measured - 1))
            lines[f"{name} {workers}"] = {
                "predicted_s": round(predicted.epoch_s, 3),
                "measured_s": round(measured, 3),
                "relative_error": round(predicted.epoch_s / measured - 1, 3),
                "predicted_start_s": round(predicted.start_s, 1),
                "measured_start_s": round(report["seconds"]["start"], 1),
                "phases": report.get("phase_seconds"),
                "shares": report["training_shares"],
            }
            print(name, workers, lines[f"{name} {workers}"], flush=True)
    spark.stop()
    print_result(
        "explain",
        max(errors),
        wanted="< 0.25",
        cases=lines,
        cluster=found.cluster.to_json(),
        step=found.step.to_json(),
    )


if __name__ == "__main__":
    main()
