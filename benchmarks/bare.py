"""Runs the bare two-rank script and times it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._mnist import WORKERS
from spark_dlobd.backends.horovod.gloo import RendezvousServer, gloo_environment
from spark_dlobd.processes.placement import place_ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray


def run_bare(
    x: NDArray[Any], y: NDArray[Any], epochs: int, environment: Mapping[str, str] | None = None
) -> tuple[float, list[float]]:
    """Return seconds of the whole script, imports and all, and of each epoch."""
    import numpy as np

    places = place_ranks(["127.0.0.1"] * WORKERS)
    with tempfile.TemporaryDirectory() as directory, RendezvousServer("127.0.0.1") as server:
        data, result = f"{directory}/data.npz", f"{directory}/seconds.json"
        np.savez(data, x=x, y=y)
        server.expect(places)
        started = time.monotonic()
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.bare_rank", data, str(epochs), result],
                env={
                    **os.environ,
                    **gloo_environment(place, server.address, "lo", 120),
                    "OMP_NUM_THREADS": "1",
                    "TF_NUM_INTRAOP_THREADS": "1",
                    "TF_NUM_INTEROP_THREADS": "1",
                    **(environment or {}),
                },
            )
            for place in places
        ]
        try:
            codes = [rank.wait(timeout=900) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        seconds = time.monotonic() - started
        if any(codes):
            raise RuntimeError(f"the bare ranks ended with exit codes {codes}")
        return seconds, json.loads(Path(result).read_text())
