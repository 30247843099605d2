"""Program that fits for minutes and is interrupted by its test: ``BACKEND SIGN_FILE``."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    # a shell that runs the tests in the background has SIGINT ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import cloudpickle
    import keras
    from pyspark.sql import SparkSession

    from spark_dlobd import (
        CollectiveConfig,
        DLEstimator,
        HorovodConfig,
        ParameterServerConfig,
        ShuffleConfig,
    )
    from tests.cluster import faults

    cloudpickle.register_pickle_by_value(faults)
    name, sign = sys.argv[1], sys.argv[2]
    backends = {
        "collective": CollectiveConfig(transport="ring"),
        "collective-mpi": CollectiveConfig(transport="mpi"),
        "gloo": HorovodConfig(controller="gloo"),
        "mpi": HorovodConfig(controller="mpi"),
        "parameter_server": ParameterServerConfig(),
        "shuffle": ShuffleConfig(),
    }
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    df = spark.createDataFrame([([float(i % 2)] * 4, i % 2) for i in range(200)], ["x", "y"])
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    DLEstimator(
        model=model,
        featuresCol="x",
        labelCol="y",
        loss="sparse_categorical_crossentropy",
        backend=backends[name],
        numTrainWorkers=2,
        epochs=500,
        callbacks=[faults.Touch(sign)],
        tracking="none",
    ).fit(df)


if __name__ == "__main__":
    main()
