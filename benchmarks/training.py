"""Rows/s of later epochs through DLEstimator against two bare Keras ranks.

``python -m benchmarks.training [--rounds 2] [--epochs 3]``
"""

from __future__ import annotations

import argparse
import statistics

from benchmarks._mnist import estimator, frame, mnist, print_result, session
from benchmarks.bare import run_bare


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
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(options.rounds):
        report = estimator(epochs=options.epochs).fit(df).report
        ours += [len(x) / seconds for seconds in report["epoch_seconds"][1:]]
        bare += [len(x) / seconds for seconds in run_bare(x, y, options.epochs)[1][1:]]
        print(f"ours {ours[-1]:,.0f} rows/s, bare {bare[-1]:,.0f} rows/s", flush=True)
    spark.stop()
    print_result(
        "training",
        statistics.median(ours) / statistics.median(bare),
        wanted=">= 0.95",
        rows_per_s={"ours": round(statistics.median(ours)), "bare": round(statistics.median(bare))},
        epochs_rows_per_s={"ours": [round(v) for v in ours], "bare": [round(v) for v in bare]},
        reading_seconds_per_epoch=round(report["reading_seconds"], 3),
    )


if __name__ == "__main__":
    main()
