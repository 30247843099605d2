"""Rows/s of later epochs with 2 workers and 1 server, against the same strategy bare.

``python -m benchmarks.parameter_server_training [--rounds 2] [--epochs 3]``. In the same
run: Horovod over Gloo through the same estimator, and one plain Keras process. All use a
batch of 128: of one worker here, of both together with Horovod.
"""

from __future__ import annotations

import argparse
import statistics

from benchmarks._mnist import estimator, frame, mnist, print_result, session
from benchmarks.bare_ps import run_bare_ps, run_plain
from spark_dlobd import HorovodConfig, ParameterServerConfig


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=60_000)
    options = parser.parse_args()
    (x, y), _ = mnist()
    x, y = x[: options.rows], y[: options.rows]
    spark = session()
    df = frame(spark, x, y)
    seconds: dict[str, list[float]] = {"ours": [], "bare": [], "horovod": [], "plain_keras": []}
    for _ in range(options.rounds):
        report = estimator(epochs=options.epochs, backend=ParameterServerConfig()).fit(df).report
        seconds["ours"] += report["epoch_seconds"][1:]
        seconds["bare"] += run_bare_ps(x, y, options.epochs, report["steps_per_call"])[1:]
        horovod = estimator(epochs=options.epochs, backend=HorovodConfig()).fit(df).report
        seconds["horovod"] += horovod["epoch_seconds"][1:]
        seconds["plain_keras"] += run_plain(x, y, options.epochs)[1:]
        shown = {name: round(len(x) / values[-1]) for name, values in seconds.items()}
        print(f"rows/s {shown}", flush=True)
    spark.stop()
    rates = {name: [len(x) / s for s in values] for name, values in seconds.items()}
    middle = {name: statistics.median(values) for name, values in rates.items()}
    workers = report["worker_seconds"]
    print_result(
        "parameter_server_training",
        middle["ours"] / middle["bare"],
        wanted=">= 0.9",
        against="the same strategy in a bare script with arrays in memory",
        against_horovod=round(middle["ours"] / middle["horovod"], 3),
        against_plain_keras=round(middle["ours"] / middle["plain_keras"], 3),
        rows_per_s={name: round(value) for name, value in middle.items()},
        epochs_rows_per_s={name: [round(v) for v in values] for name, values in rates.items()},
        steps_per_call=report["steps_per_call"],
        staleness=report["staleness"],
        waited_for_rows=round(sum(workers["reading"]) / sum(workers["steps"]), 4),
    )


if __name__ == "__main__":
    main()
