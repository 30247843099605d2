"""Cost of measuring for the report, as a share of the step time.

``python -m benchmarks.report_cost [--epochs 5] [--rows 15000]``. Two Horovod ranks train
LeNet three times at the same time in the same processes: one training measures itself as a
fit does (clock around each batch, clock around each allreduce, one sample of the utilization
a second), the others do not. They take turns, some steps each, so whatever the machine does
meets all of them, and what the two others differ by tells how far the numbers can be trusted.

Steps of 128 rows vary by more than measuring costs. What it costs is the same with 8 rows,
so the milliseconds come from steps of 8 rows, and the figure sets them against the plain step
of 128 rows in the same run: the median difference of turns, plus what measuring adds to the
end of an epoch, spread over its steps, plus the CPU time of the sampler, which runs all the
time. The direct comparison with 128 rows is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._mnist import BATCH_SIZE, WORKERS, estimator, frame, mnist, print_result, session
from spark_dlobd.backends.horovod.gloo import RendezvousServer, gloo_environment
from spark_dlobd.processes.environment import KEEP_MEMORY
from spark_dlobd.processes.placement import place_ranks


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


def compare(seconds: dict[str, list[list[float]]], steps: int) -> dict[str, Any]:
    """What measuring adds, in milliseconds, from the turns of each training by epochs.

    Parameters
    ----------
    seconds : dict of list of list of float
        Seconds of every turn of every epoch; in the last turn an epoch ends.
    steps : int
        Steps of an epoch.
    """
    turns = {name: 1000 * np.array(epochs) for name, epochs in seconds.items()}
    plain = (turns["plain"] + turns["plain_again"]) / 2
    # the last of the turns with steps may have fewer
    full = slice(0, -2)
    step_ms = float(np.median(plain[:, :-1].sum(axis=1))) / steps
    ratios = (turns["measured"] / plain)[:, full].ravel() - 1
    again = (turns["plain_again"] / turns["plain"])[:, full]
    return {
        "added_ms_per_step": step_ms * float(np.median(ratios)),
        "standard_error_ms": step_ms * float(1.25 * np.std(ratios) / np.sqrt(ratios.size)),
        "plain_ms_per_step": step_ms,
        "plain_again_adds_ms": step_ms * float(np.median(again) - 1),
        "epoch_end_adds_ms": float(np.median((turns["measured"] - plain)[:, -1])),
        "steps_per_epoch": steps,
        "turns": ratios.size,
    }


def run(spark: Any, options: argparse.Namespace, batch_size: int, turn: int) -> dict[str, Any]:
    """`compare` of a run, and the share of the sampler."""
    import cloudpickle

    from spark_dlobd.data.materialize import materialize
    from spark_dlobd.estimators.preparation import prepare
    from spark_dlobd.training.loop import plans

    (x, y), _ = mnist()
    df = frame(spark, x[: options.rows], y[: options.rows])
    prepared = prepare(estimator(epochs=options.epochs, batchSize=batch_size), df)
    with materialize(df, prepared.request.columns, world_size=WORKERS) as data:
        steps = plans(prepared.job, data, WORKERS)[0].steps_per_epoch
        ranks = run_ranks(cloudpickle.dumps((prepared.job, data, turn)))
    # of the first epoch the steps are traced
    seconds = {name: epochs[1:] for name, epochs in ranks[0]["seconds"].items()}
    found = compare(seconds, steps)
    found["sampler_cpu_share"] = max(rank["sampler_cpu_share"] for rank in ranks)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=15_000)
    options = parser.parse_args()
    spark = session()
    small = run(spark, options, batch_size=8, turn=50)
    usual = run(spark, options, batch_size=BATCH_SIZE, turn=9)
    spark.stop()
    per_step = small["added_ms_per_step"] + small["epoch_end_adds_ms"] / usual["steps_per_epoch"]
    print_result(
        "report_cost",
        per_step / usual["plain_ms_per_step"] + small["sampler_cpu_share"],
        wanted="< 0.01",
        standard_error=round(small["standard_error_ms"] / usual["plain_ms_per_step"], 4),
        **{
            f"batch_{size}": {name: round(value, 4) for name, value in found.items()}
            for size, found in ((8, small), (BATCH_SIZE, usual))
        },
    )


if __name__ == "__main__":
    main()
