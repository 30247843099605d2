"""Rows/s of later epochs through DLEstimator against two bare Keras ranks.

``python -m benchmarks.training [--rounds 2] [--epochs 3]``. The bare ranks run twice: as
a user would start them, and with the allocator settings that our ranks have, because
without them their speed depends on which of TensorFlow's threads runs the step. The
figure is against the faster of the two.
"""

from __future__ import annotations

import argparse
import statistics

from benchmarks._mnist import estimator, frame, mnist, print_result, session
from benchmarks.bare import run_bare
from spark_dlobd.processes.environment import KEEP_MEMORY


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
    helped: list[float] = []
    for _ in range(options.rounds):
        report = estimator(epochs=options.epochs).fit(df).report
        ours += [len(x) / seconds for seconds in report["epoch_seconds"][1:]]
        bare += [len(x) / seconds for seconds in run_bare(x, y, options.epochs)[1][1:]]
        seconds = run_bare(x, y, options.epochs, KEEP_MEMORY)[1]
        helped += [len(x) / second for second in seconds[1:]]
        print(
            f"ours {ours[-1]:,.0f}, bare {bare[-1]:,.0f}, with our allocator settings "
            f"{helped[-1]:,.0f} rows/s",
            flush=True,
        )
    spark.stop()
    rates = {"ours": ours, "bare": bare, "bare_with_our_allocator_settings": helped}
    print_result(
        "training",
        statistics.median(ours) / max(statistics.median(bare), statistics.median(helped)),
        wanted=">= 0.95",
        against="the faster of the two bare runs",
        rows_per_s={name: round(statistics.median(values)) for name, values in rates.items()},
        epochs_rows_per_s={name: [round(v) for v in values] for name, values in rates.items()},
        reading_seconds_per_epoch=round(report["reading_seconds"], 3),
    )


if __name__ == "__main__":
    main()
