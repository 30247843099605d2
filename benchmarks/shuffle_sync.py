"""Cost of one synchronization through the shuffle against the number of weights.

``python -m benchmarks.shuffle_sync [--weights 7850 431080 ...] [--wire fp32]``. Fits a model of
that many weights with next to no computation (Adam, two workers) and takes the computing of
gradients off. The floor, measured in the same session in turns: as many stages with records
of the same size that do nothing. Beside it stages with empty records, and the time to copy
the same bytes once in memory. The figure is the worst ratio to the floor at 431,080 weights
and above.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from typing import Any

import numpy as np

from benchmarks._mnist import WORKERS, print_result, session
from spark_dlobd import DLEstimator, ShuffleConfig
from spark_dlobd.backends.shuffle.spark.exchange import Exchange
from spark_dlobd.backends.shuffle.wire.vectors import bytes_per_weight
from spark_dlobd.cost.stages import last_stage, moving_stage, places

WEIGHTS = (7_850, 431_080, 7_000_000, 25_000_000)


def model(weights: int) -> Any:
    """Multiply by the first four of `weights` weights; all of them get a gradient."""
    import keras

    @keras.saving.register_keras_serializable("benchmarks")
    class FirstFour(keras.layers.Layer):
        def __init__(self, weights: int, **others: Any) -> None:
            super().__init__(**others)
            self.count = weights

        def build(self, shape: Any) -> None:
            self.kernel = self.add_weight(shape=(self.count,), initializer="ones")

        def call(self, rows: Any) -> Any:
            return keras.ops.sum(rows * self.kernel[:4], axis=-1, keepdims=True)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "weights": self.count}

    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), FirstFour(weights)])


def synchronize(
    df: Any, weights: int, iterations: int, wire: Any, state: Any
) -> tuple[float, dict[str, float]]:
    """Milliseconds of one synchronization, and of its phases."""
    rounds = 2
    fitted = DLEstimator(
        model=model(weights),
        loss="mean_squared_error",
        optimizer="adam",
        backend=ShuffleConfig(wire=wire, state=state, iterations_per_job=iterations),
        numTrainWorkers=WORKERS,
        batchSize=df.count() // (rounds * iterations),
        tracking="none",
        verbose=0,
    ).fit(df)
    phases = fitted.report["last_job"]
    each = {name: 1000 * seconds / iterations for name, seconds in phases.items()}
    return sum(each.values()) - each["compute"], each


class Floor:
    """Chains of stages without work."""

    def __init__(self, spark: Any) -> None:
        context = spark.sparkContext
        self._exchange = Exchange(context, WORKERS, functools.partial(places, WORKERS))
        self._exchange.place()

    def ms(self, size: int, iterations: int) -> float:
        """Milliseconds of two stages with `size` bytes for every partition."""
        work = self._exchange.function(functools.partial(moving_stage, WORKERS, size))
        last = self._exchange.function(last_stage)
        began = time.perf_counter()
        stages = [("floor", work)] * (2 * iterations - 1)
        chain = self._exchange.chain([*stages, ("floor", last)])
        chain.collect()
        seconds = time.perf_counter() - began
        chain.remove_shuffles()
        return 1000 * seconds / iterations


def copy_ms(size: int) -> float:
    """Milliseconds to copy `size` bytes once, in one thread."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - began)
    return 1000 * min(times)


def measure(floor: Floor, df_of: Any, weights: int, options: argparse.Namespace) -> dict[str, Any]:
    iterations = 20 if weights < 2_000_000 else 5
    size = weights * bytes_per_weight(options.wire) // WORKERS
    found: dict[str, list[float]] = {"sync": [], "floor": [], "empty": []}
    phases: dict[str, float] = {}
    for _ in range(options.rounds):
        sync, phases = synchronize(
            df_of(2 * iterations), weights, iterations, options.wire, options.state
        )
        found["sync"].append(sync)
        found["floor"].append(floor.ms(size, iterations))
        found["empty"].append(floor.ms(8, iterations))
    median = {name: statistics.median(values) for name, values in found.items()}
    moved = 2 * weights * bytes_per_weight(options.wire)
    return {
        "sync_ms": round(median["sync"], 1),
        "floor_ms": round(median["floor"], 1),
        "ratio": round(median["sync"] / median["floor"], 2),
        "empty_stages_ms": round(median["empty"], 1),
        "memory_copy_ms": round(copy_ms(moved), 2),
        "phases_ms": {name: round(value, 1) for name, value in phases.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=int, nargs="+", default=WEIGHTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wire", default="fp32")
    parser.add_argument("--state", default=None)
    options = parser.parse_args()
    spark = session()

    def df_of(steps: int) -> Any:
        rows = [([float(i % 7), 1.0, 2.0, 3.0], float(i)) for i in range(2 * steps)]
        return spark.createDataFrame(rows, "features array<double>, label double").coalesce(1)

    floor = Floor(spark)
    for _ in range(4):  # until the JVM has compiled what it needs
        floor.ms(200_000, 20)
    sizes = {}
    for weights in options.weights:
        sizes[str(weights)] = measure(floor, df_of, weights, options)
        print(weights, sizes[str(weights)], flush=True)
    spark.stop()
    large = [found["ratio"] for weights, found in sizes.items() if int(weights) >= 431_080]
    print_result("shuffle_sync", max(large, default=0.0), wanted="<= 1.5", weights=sizes)


if __name__ == "__main__":
    main()
