"""Program that fits in a session of its own: ``SCENARIO SETTINGS.json RESULT.json``.

Settings are ``master``, ``conf`` and the arguments of the scenario.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from spark_dlobd import DLEstimator, DLModel


def session(settings: dict[str, Any]) -> SparkSession:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(settings["master"]).appName("shuffle-environment")
    conf = {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.executor.memory": "512m",
        "spark.ui.showConsoleProgress": "false",
        **settings.get("conf", {}),
    }
    for key, value in conf.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def rows(spark: SparkSession, count: int) -> DataFrame:
    """Two classes, 4 features."""
    import numpy as np

    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    features = rng.normal(size=(count, 4)) + 2.0 * labels[:, None]
    data = [(f.tolist(), int(y)) for f, y in zip(features, labels, strict=True)]
    return spark.createDataFrame(data, "features array<double>, label int").coalesce(1).cache()


def estimator(backend: Any, settings: dict[str, Any], hidden: int = 8) -> DLEstimator:
    import keras

    from spark_dlobd import DLEstimator
    from tests.cluster.shuffle_faults import FaultyAdam, FaultyLayer

    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(hidden, "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            FaultyLayer(settings.get("layer")),
            keras.layers.Dense(2, "softmax"),
        ]
    )
    return DLEstimator(
        model=model,
        loss="sparse_categorical_crossentropy",
        optimizer=FaultyAdam(settings.get("update")),
        metrics=["accuracy"],
        backend=backend,
        numTrainWorkers=settings.get("workers", 2),
        batchSize=24,
        epochs=settings.get("epochs", 2),
        seed=4,
        tracking="none",
        verbose=0,
        **({"cacheDir": settings["cache_dir"]} if "cache_dir" in settings else {}),
    )


def shuffle(options: dict[str, Any]) -> Any:
    from spark_dlobd import ShuffleConfig

    return ShuffleConfig(**options)


def told(model: DLModel) -> dict[str, Any]:
    return {"history": model.history, "report": model.report}


def after_idling(spark: SparkSession, settings: dict[str, Any]) -> dict[str, Any]:
    """A fit with and without faults, on executors of its own each, and with virtual workers."""
    from spark_dlobd import LocalConfig

    df = rows(spark, 203)
    quiet = {**settings, "layer": None, "update": None}
    undisturbed = told(estimator(shuffle({}), quiet).fit(df))
    local = told(estimator(LocalConfig(), quiet).fit(df))
    df.unpersist()
    status = spark.sparkContext._jsc.sc().statusTracker()
    deadline = time.monotonic() + 60
    while len(status.getExecutorInfos()) > 1:  # the driver is one
        assert time.monotonic() < deadline, "Spark kept its executors"
        time.sleep(0.2)
    disturbed = told(estimator(shuffle({}), settings).fit(df))
    return {"undisturbed": undisturbed, "local": local, "disturbed": disturbed}


def tuning(df: DataFrame, settings: dict[str, Any], parallelism: int) -> list[str]:
    """Weights of the models of a grid, so many fits at a time."""
    from pyspark.ml.evaluation import BinaryClassificationEvaluator
    from pyspark.ml.tuning import ParamGridBuilder, TrainValidationSplit

    est = estimator(shuffle({}), {**settings, "epochs": 1}, hidden=1000)
    validator = TrainValidationSplit(
        estimator=est,
        estimatorParamMaps=ParamGridBuilder().addGrid(est.learningRate, [0.001, 0.1]).build(),
        evaluator=BinaryClassificationEvaluator(),
        parallelism=parallelism,
        collectSubModels=True,
        seed=1,
    )
    return [model.report["weights_hash"] for model in validator.fit(df).subModels]


def on_disk(folders: Iterable[str]) -> dict[str, int]:
    """Size of each file below."""
    found = {}
    for path in (path for folder in folders for path in Path(folder).rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            if path.is_file():
                found[path.name] = path.stat().st_size
    return found


def many_fits(spark: SparkSession, settings: dict[str, Any]) -> dict[str, Any]:
    """More workers than slots; tuning one fit at a time, and two; a fit that fills the disk.

    After each of the first three, what is on the executors' disks.
    """
    from spark_dlobd import LocalConfig
    from tests.cluster import shuffle_faults

    df = rows(spark, 203)
    df.count()
    folders = shuffle_faults.executor_folders(spark)
    before = shuffle_faults.files_of_fits(folders)
    found: dict[str, Any] = {"after": []}

    def look() -> None:
        # broadcasts of models that scored go when both garbage collectors have seen them
        gc.collect()
        spark.sparkContext._jvm.System.gc()  # type: ignore[union-attr]
        left = shuffle_faults.wait_until_clean(spark, before, timeout_s=10.0)
        deadline = time.monotonic() + 5.0
        while (sizes := on_disk(folders)) and time.monotonic() < deadline:
            time.sleep(0.2)
        found["after"].append(
            {"left": sorted(left), "bytes": sum(sizes.values()), "files": sorted(sizes)}
        )

    virtual = {**settings, "workers": 3}
    found["shuffle"] = told(estimator(shuffle({"iterations_per_job": 5}), virtual).fit(df))
    look()
    found["local"] = told(estimator(LocalConfig(), virtual).fit(df))
    for parallelism in (1, 2):
        found[str(parallelism)] = tuning(df, settings, parallelism)
        look()
    found["failed"] = failing(spark, df, before)
    return found


def failing(spark: SparkSession, df: DataFrame, before: set[str]) -> dict[str, Any]:
    """A fit that fills the disk; what it raised and what it left."""
    from spark_dlobd.errors import DLError
    from tests.cluster import shuffle_faults

    started = time.monotonic()
    try:
        # 4 MB of weights, so 8 MB go through the shuffle in every step
        estimator(shuffle({"iterations_per_job": 64}), {}, hidden=100_000).fit(df)
    except DLError as error:
        return {
            "error": type(error).__name__,
            "message": str(error),
            "seconds": time.monotonic() - started,
            "left": sorted(shuffle_faults.wait_until_clean(spark, before, timeout_s=10.0)),
        }
    return {"error": None}


SCENARIOS = {"after_idling": after_idling, "many_fits": many_fits}


def main() -> None:
    import cloudpickle

    from tests.cluster import shuffle_faults

    cloudpickle.register_pickle_by_value(shuffle_faults)
    scenario, settings_file, result_file = sys.argv[1:]
    settings = json.loads(Path(settings_file).read_text())
    spark = session(settings)
    spark.sparkContext.setLogLevel(settings.get("log_level", "OFF"))
    try:
        result = SCENARIOS[scenario](spark, settings)
    finally:
        spark.stop()
    Path(result_file).write_text(json.dumps(result, default=str))


if __name__ == "__main__":
    main()
