"""Faults at exact places of the shuffle backend. Shipped to the executors by value."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import psutil
import tensorflow as tf

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FOREVER_S = 60.0


class Fault:
    """What happens on one rank at one step, and how often it has.

    Parameters
    ----------
    kind : str
        A method of this class.
    rank : int
        Partition that it happens in; -1 is every one.
    step : int
        Steps of the fit before it happens.
    file : str
        Gets a line each time.
    times : int
        How often it happens at most.
    """

    def __init__(self, kind: str, rank: int, step: int, file: str, times: int = 1) -> None:
        self.config = {"kind": kind, "rank": rank, "step": step, "file": file, "times": times}

    def strike(self, step: Any, rows: Any) -> Any:
        """Runs on each worker. One row is what a worker tries its model on: nothing happens."""
        from pyspark import TaskContext

        context = TaskContext.get()
        rank = -1 if context is None else context.partitionId()
        mine = self.config["rank"] in (-1, rank)
        if mine and int(step) == self.config["step"] and int(rows) != 1 and self._is_due():
            getattr(self, self.config["kind"])()
        return step

    def _is_due(self) -> bool:
        file = Path(self.config["file"])
        happened = len(file.read_text().split()) if file.exists() else 0
        if happened >= self.config["times"]:
            return False
        with file.open("a") as lines:
            lines.write(f"{os.getpid()}\n")
        return True

    def nothing(self) -> None:
        """Leave no more than the line."""

    def kill_worker(self) -> None:
        """End the Python worker."""
        os.kill(os.getpid(), signal.SIGKILL)

    def kill_executor(self) -> None:
        """End the executor's JVM, and this process with it."""
        java = next(p for p in psutil.Process().parents() if p.name() == "java")
        os.kill(java.pid, signal.SIGKILL)
        time.sleep(FOREVER_S)

    def sleep(self) -> None:
        """Be slow."""
        time.sleep(10.0)

    def hang(self) -> None:
        """Never come back."""
        time.sleep(FOREVER_S)

    def raise_error(self) -> None:
        """Fail as user code does."""
        raise ZeroDivisionError("the user's own mistake")

    def lose_shuffle_files(self) -> None:
        """Delete what this executor has written, so that this task, repeated, finds no input."""
        files = [path for folder in block_folders() for path in folder.rglob("shuffle_*")]
        assert files, "there were no shuffle files to lose"
        for path in files:
            path.unlink()
        self.kill_worker()

    def lose_slices(self) -> None:
        """Delete the state of slices from file and memory."""
        files = [p for folder in block_folders() for p in folder.glob("spark-dlobd-slices/*/*")]
        assert files, "there were no slices to lose"
        for path in files:
            path.unlink()
        self.kill_worker()


def block_folders() -> list[Path]:
    """Runs on each worker. Local directories of the executor's block manager."""
    return [Path(folder) for folder in os.environ["SPARK_LOCAL_DIRS"].split(",")]


@keras.saving.register_keras_serializable("faults")
class FaultyLayer(keras.layers.Layer):  # type: ignore[misc]
    """Passes its input on; a fault strikes in the gradient stage."""

    supports_jit = False

    def __init__(self, fault: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fault = fault

    def build(self, input_shape: Any) -> None:
        self.steps = self.add_weight(
            name="steps", shape=(), dtype="int32", initializer="zeros", trainable=False
        )

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            if self.fault is not None:
                strike = Fault(**self.fault).strike
                tf.numpy_function(strike, [self.steps.value, tf.shape(x)[0]], tf.int32)
            self.steps.assign(self.steps + 1)
        return x

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "fault": self.fault}


@keras.saving.register_keras_serializable("faults")
class FaultyAdam(keras.optimizers.Adam):  # type: ignore[misc]
    """Adam; a fault strikes in the update stage."""

    def __init__(self, fault: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fault = fault

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if self.fault is not None:
            strike = Fault(**self.fault).strike
            step = tf.cast(self.iterations.value, tf.int32)
            tf.numpy_function(strike, [step, tf.constant(0)], tf.int32)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "fault": self.fault}


def executor_folders(spark: SparkSession) -> set[str]:
    """Local directories of the executors that live."""
    context = spark.sparkContext

    def own(_: Any) -> list[str]:
        time.sleep(0.2)
        return os.environ["SPARK_LOCAL_DIRS"].split(",")

    return set(context.parallelize(range(8), 8).mapPartitions(own).collect())


def files_of_fits(folders: set[str]) -> set[str]:
    """Slices of fits and shuffle files in local directories of executors."""
    found = set()
    for folder in folders:
        found |= {str(path) for path in Path(folder).glob("spark-dlobd-slices/*")}
        found |= {str(path) for path in Path(folder).rglob("shuffle_*")}
    return found


def wait_until_clean(spark: SparkSession, before: set[str], timeout_s: float) -> set[str]:
    """Files besides `before` that living executors have, once they have none or in the end."""
    folders = executor_folders(spark)
    deadline = time.monotonic() + timeout_s
    while (left := files_of_fits(folders) - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
