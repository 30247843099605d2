"""Cost of measuring for the report, as a share of the step time.

``python -m benchmarks.report_cost [--epochs 12] [--rows 15000]``. Two Horovod ranks train
LeNet twice at the same time in the same processes: one training measures itself as a fit
does (clock around each batch, clock around each allreduce, one sample of the utilization a
second), the other does not. They take turns, one epoch each, so whatever the machine does
meets both. The sampler runs in the turns of the measured one only. The figure is the median
over pairs of epochs of the measured one's seconds against the other's, less 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._mnist import WORKERS, estimator, frame, mnist, print_result, session
from spark_dlobd.backends.barrier import KEEP_MEMORY
from spark_dlobd.backends.gloo import RendezvousServer, gloo_environment
from spark_dlobd.backends.placement import place_ranks


def run_ranks(payload: bytes) -> list[dict[str, Any]]:
    """Results of all ranks."""
    places = place_ranks(["127.0.0.1"] * WORKERS)
    with tempfile.TemporaryDirectory() as directory, RendezvousServer("127.0.0.1") as server:
        folder = Path(directory)
        (folder / "job").write_bytes(payload)
        server.expect(places)
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.report_cost_rank", directory],
                env={
                    **os.environ,
                    **gloo_environment(place, server.address, "lo", 120),
                    **KEEP_MEMORY,
                    "OMP_NUM_THREADS": "1",
                    "TF_NUM_INTRAOP_THREADS": "1",
                    "TF_NUM_INTEROP_THREADS": "1",
                },
            )
            for place in places
        ]
        try:
            codes = [rank.wait(timeout=900) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        if any(codes):
            raise RuntimeError(f"the ranks ended with exit codes {codes}")
        return [json.loads((folder / str(rank)).read_text()) for rank in range(WORKERS)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rows", type=int, default=15_000)
    options = parser.parse_args()
    import cloudpickle

    from spark_dlobd.data.materialize import materialize
    from spark_dlobd.estimators.preparation import prepare

    (x, y), _ = mnist()
    spark = session()
    df = frame(spark, x[: options.rows], y[: options.rows])
    prepared = prepare(estimator(epochs=options.epochs), df)
    with materialize(df, prepared.request.columns, world_size=WORKERS) as data:
        ranks = run_ranks(cloudpickle.dumps((prepared.job, data)))
    spark.stop()
    first = ranks[0]
    # of the first epoch the steps are traced
    pairs = list(zip(first["measured"], first["plain"], strict=True))[1:]
    ratios = [measured / plain for measured, plain in pairs]
    quartiles = statistics.quantiles(ratios, n=4)
    steps = first["steps"]
    print_result(
        "report_cost",
        statistics.median(ratios) - 1,
        wanted="< 0.01",
        pairs_of_epochs=len(ratios),
        quartiles=[round(value - 1, 4) for value in quartiles],
        ms_per_step={
            "measured": round(1000 * statistics.median(a for a, _ in pairs) / steps, 3),
            "plain": round(1000 * statistics.median(b for _, b in pairs) / steps, 3),
        },
        sampler_cpu_share=round(max(rank["sampler_cpu_share"] for rank in ranks), 6),
    )


if __name__ == "__main__":
    main()
