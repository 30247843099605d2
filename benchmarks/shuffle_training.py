"""Rows/s of the shuffle backend on LeNet and MNIST, against Horovod with Gloo in the same run.

``python -m benchmarks.shuffle_training [--rounds 1] [--epochs 3] [--rows 60000]``. The
figure is rows/s of later epochs with a synchronization after every step.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks._mnist import estimator, frame, mnist, print_result, session
from spark_dlobd import HorovodConfig, ShuffleConfig

WAYS = {
    "every_step": ShuffleConfig(),
    "every_10_steps": ShuffleConfig(sync_every=10),
    "horovod_gloo": HorovodConfig(),
}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser()
    found.add_argument("--rounds", type=int, default=1)
    found.add_argument("--epochs", type=int, default=3)
    found.add_argument("--rows", type=int, default=60_000)
    return found


def measure(
    ways: dict[str, Any], options: argparse.Namespace
) -> tuple[dict[str, int], dict[str, Any]]:
    """Median rows/s of later epochs, and the last report, of each way; they take turns."""
    (x, y), _ = mnist()
    x, y = x[: options.rows], y[: options.rows]
    spark = session()
    df = frame(spark, x, y)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    reports = {}
    for _ in range(options.rounds):
        for name, backend in ways.items():
            model = estimator(epochs=options.epochs, backend=backend).fit(df)
            report = reports[name] = model.report
            rates[name] += [len(x) / seconds for seconds in report["epoch_seconds"][1:]]
            accuracy = model.history["accuracy"][-1]
            print(f"{name}: {rates[name][-1]:,.0f} rows/s, accuracy {accuracy:.4f}", flush=True)
    spark.stop()
    return {name: round(statistics.median(values)) for name, values in rates.items()}, reports


def main() -> None:
    given = parser()
    given.add_argument("--ways", nargs="+", default=list(WAYS))
    options = given.parse_args()
    medians, reports = measure({name: WAYS[name] for name in options.ways}, options)
    print_result(
        "shuffle_training",
        medians.get("every_step", 0),
        wanted=">= 1000, and every_10_steps >= 0.8 of horovod_gloo",
        rows_per_s=medians,
        every_10_steps_of_horovod=round(
            medians.get("every_10_steps", 0) / medians.get("horovod_gloo", 1), 3
        ),
        phase_seconds={
            name: report["phase_seconds"]
            for name, report in reports.items()
            if "phase_seconds" in report
        },
        synchronizations={
            name: report["synchronizations"]
            for name, report in reports.items()
            if "synchronizations" in report
        },
    )


if __name__ == "__main__":
    main()
