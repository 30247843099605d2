"""Seconds of a whole ``fit`` against the whole bare two-rank script.

``python -m benchmarks.end_to_end [--rounds 2]``: 60,000 MNIST rows, LeNet, 2 epochs,
2 workers, from a cached DataFrame to the returned DLModel, MLflow on.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

from benchmarks._mnist import estimator, frame, mnist, print_result, session
from benchmarks.bare import run_bare

EPOCHS = 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=60_000)
    options = parser.parse_args()
    (x, y), _ = mnist()
    x, y = x[: options.rows], y[: options.rows]
    spark = session()
    df = frame(spark, x, y)
    ours: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        import mlflow

        mlflow.set_tracking_uri(f"sqlite:///{directory}/mlflow.db")
        mlflow.create_experiment("end_to_end", artifact_location=f"file://{directory}/artifacts")
        mlflow.set_experiment("end_to_end")
        for _ in range(options.rounds):
            started = time.monotonic()
            report = estimator(epochs=EPOCHS, tracking="mlflow").fit(df).report
            ours.append(time.monotonic() - started)
            bare.append(run_bare(x, y, EPOCHS)[0])
            print(f"ours {ours[-1]:.1f} s, bare {bare[-1]:.1f} s", flush=True)
    spark.stop()
    print_result(
        "end_to_end",
        statistics.median(ours) / statistics.median(bare),
        wanted="<= 1.2",
        seconds={"ours": [round(s, 1) for s in ours], "bare": [round(s, 1) for s in bare]},
        breakdown={name: round(s, 1) for name, s in report["seconds"].items()},
        rank_seconds={name: round(s, 1) for name, s in report["rank_seconds"].items()},
        epoch_seconds=[round(s, 1) for s in report["epoch_seconds"]],
    )


if __name__ == "__main__":
    main()
