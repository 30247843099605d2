"""Runs the bare parameter-server script, and plain Keras in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._mnist import WORKERS
from spark_dlobd.processes.environment import tensorflow_environment

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMEOUT_S = 900


def run_bare_ps(
    x: NDArray[Any], y: NDArray[Any], epochs: int, steps_per_call: int, servers: int = 1
) -> list[float]:
    """Seconds of each epoch, in processes with the environment that ours have."""
    import numpy as np

    with tempfile.TemporaryDirectory() as directory:
        data, result = f"{directory}/data.npz", f"{directory}/seconds.json"
        np.savez(data, x=x, y=y)
        arguments = [data, str(epochs), str(steps_per_call), result]
        roles = [("worker", i) for i in range(WORKERS)] + [("ps", i) for i in range(servers)]
        members = [_start(role, index, arguments) for role, index in roles]
        coordinator = _start("chief", 0, arguments)
        try:
            addresses: dict[str, list[str]] = {"worker": [], "ps": []}
            for (role, _), member in zip(roles, members, strict=True):
                assert member.stdout is not None
                addresses[role].append(member.stdout.readline().strip().removeprefix("grpc://"))
            coordinator.communicate(json.dumps(addresses) + "\n", timeout=TIMEOUT_S)
        finally:
            for process in (coordinator, *members):
                process.kill()
                process.wait()
        if coordinator.returncode:
            raise RuntimeError(f"the bare coordinator ended with {coordinator.returncode}")
        seconds: list[float] = json.loads(Path(result).read_text())
        return seconds


def _start(role: str, index: int, arguments: list[str]) -> subprocess.Popen[str]:
    threads = {"TF_NUM_INTEROP_THREADS": "2" if role == "worker" else "4"}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare_ps_role", role, str(index), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **tensorflow_environment(1, []), **threads},
    )


PLAIN = """
import json, sys, time
import keras, numpy as np
from benchmarks._mnist import BATCH_SIZE, lenet
with np.load(sys.argv[1]) as data:
    x, y = data["x"].reshape(-1, 28, 28, 1), data["y"]
model = lenet()
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
seconds = []
for _ in range(int(sys.argv[2])):
    began = time.monotonic()
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=1, verbose=0)
    seconds.append(time.monotonic() - began)
print(json.dumps(seconds))
"""


def run_plain(x: NDArray[Any], y: NDArray[Any], epochs: int) -> list[float]:
    """Seconds of each epoch of plain Keras in one process with as many threads as workers."""
    import numpy as np

    with tempfile.TemporaryDirectory() as directory:
        data = f"{directory}/data.npz"
        np.savez(data, x=x, y=y)
        done = subprocess.run(
            [sys.executable, "-c", PLAIN, data, str(epochs)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
            env={**os.environ, **tensorflow_environment(WORKERS, [])},
        )
        seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
        return seconds
