"""LeNet, MNIST and a Spark session, as all benchmarks use them."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

# Before TensorFlow is imported anywhere in a benchmark.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
os.environ["PYSPARK_PYTHON"] = sys.executable

BATCH_SIZE = 128
WORKERS = 2


def mnist() -> tuple[tuple[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]:
    """Images as float32 in [0, 1] of shape (rows, 784), labels as int32.

    From the folder that MNIST names, else from Keras's download.
    """
    from spark_dlobd.characterize.subjects.mnist import load_mnist

    (x, y), (x_test, y_test) = load_mnist(os.environ.get("MNIST"), download=True)
    return _scaled(x, y), _scaled(x_test, y_test)


def _scaled(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return x.reshape(len(x), 784).astype(np.float32) / np.float32(255), y.astype(np.int32)


def lenet(input_shape: tuple[int, ...] = (28, 28, 1)) -> Any:
    """LeNet with 431,080 weights, uncompiled and seeded."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(20, 5),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def session() -> SparkSession:
    """Two slots on this machine."""
    from pyspark.sql import SparkSession

    spark = (
        SparkSession.builder.master(f"local[{WORKERS}]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "4g")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def frame(spark: SparkSession, x: NDArray[Any], y: NDArray[Any]) -> DataFrame:
    """Cached DataFrame with ``features`` (784 floats) and ``label``, in four partitions."""
    import tempfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as directory:
        values = pa.array(x.reshape(-1))
        offsets = pa.array(np.arange(0, x.size + 1, x.shape[1], dtype=np.int32))
        table = pa.table({"features": pa.ListArray.from_arrays(offsets, values), "label": y})
        pq.write_table(table, f"{directory}/mnist.parquet", row_group_size=len(x) // 4)
        cached = spark.read.parquet(directory).repartition(4).cache()
        assert cached.count() == len(x)
    return cached


def estimator(**params: Any) -> Any:
    """LeNet on two Horovod workers with a global batch of 128."""
    from spark_dlobd import DLEstimator, HorovodConfig

    settings: dict[str, Any] = {
        "model": lenet(),
        "loss": "sparse_categorical_crossentropy",
        "optimizer": "adam",
        "metrics": ["accuracy"],
        "backend": HorovodConfig(),
        "numTrainWorkers": WORKERS,
        "batchSize": BATCH_SIZE,
        "tracking": "none",
        "verbose": 0,
    }
    return DLEstimator(**{**settings, **params})


def print_result(name: str, figure: float, **explanation: Any) -> None:
    """Print one JSON object as the last line."""
    print(json.dumps({"name": name, "figure": round(figure, 4), **explanation}), flush=True)
