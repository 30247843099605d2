"""Seconds of a fit on 1,800 rows in a warm session, of each backend, beside a plain Keras fit.

``python -m benchmarks.small_fit [--rounds 2] [--epochs 8] [--backends local,shuffle]``. Warm:
Spark runs, TensorFlow is imported, and a first fit with backend ``local`` has gone before. The
backends take turns, each with two workers; the first round of a backend is told by itself, as
it starts Spark's Python workers or probes. The figure is the fastest backend of several
processes in units of the plain fit: what starting them costs.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks._mnist import WORKERS, estimator, frame, print_result, session

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

ROWS = 1800
PHASES = ("prepare", "materialize", "start", "train", "collect")


def rows() -> tuple[NDArray[Any], NDArray[Any]]:
    """Ten blurred classes of 64 columns, as easy to learn as scanned digits."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, ROWS).astype(np.int32)
    centres = random.random((10, 64), np.float32)
    noise = random.normal(0, 0.3, (ROWS, 64)).astype(np.float32)
    return centres[labels] + noise, labels


def network() -> Any:
    """9,610 weights: one hidden layer of 128."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def plain(x: NDArray[Any], y: NDArray[Any], epochs: int) -> float:
    """Seconds of Keras on arrays in memory."""
    began = time.monotonic()
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    return time.monotonic() - began


def ours(df: DataFrame, backend: str, epochs: int) -> tuple[float, dict[str, float]]:
    """Seconds of the whole fit, and by phase."""
    made = estimator(model=network(), backend=backend, epochs=epochs)
    began = time.monotonic()
    report = made.fit(df).report
    seconds = {name: report["seconds"].get(name, 0.0) for name in PHASES}
    return time.monotonic() - began, seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument(
        "--backends", default="local,auto,horovod,collective,shuffle,parameter_server"
    )
    options = parser.parse_args()
    backends = options.backends.split(",")
    if importlib.util.find_spec("horovod") is None:
        backends = [name for name in backends if name != "horovod"]
    x, y = rows()
    spark = session()
    df = frame(spark, x, y)
    ours(df, "local", 1)
    plain(x, y, 1)
    fits: dict[str, list[float]] = {name: [] for name in ["keras", *backends]}
    phases: dict[str, dict[str, float]] = {}
    for _ in range(options.rounds + 1):
        fits["keras"].append(plain(x, y, options.epochs))
        for name in backends:
            seconds, phases[name] = ours(df, name, options.epochs)
            fits[name].append(seconds)
            parts = ", ".join(f"{part} {value:.1f}" for part, value in phases[name].items())
            print(f"{name}: {seconds:.1f} s ({parts}); keras {fits['keras'][-1]:.1f} s", flush=True)
    spark.stop()
    later = {name: statistics.median(values[1:]) for name, values in fits.items()}
    several = [later[name] for name in backends if name != "local"] or [later["local"]]
    print_result(
        "small_fit",
        min(several) / later["keras"],
        workers=WORKERS,
        rows=ROWS,
        seconds={name: round(value, 2) for name, value in later.items()},
        first_seconds={name: round(values[0], 2) for name, values in fits.items()},
        last_phases={
            name: {part: round(value, 2) for part, value in parts.items()}
            for name, parts in phases.items()
        },
    )


if __name__ == "__main__":
    main()
