"""A quiet Spark session on this machine, for the examples; imports while Spark starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spark_dlobd.processes.tensorflow_import import without_chatter
from spark_dlobd.tracking.progress import waiting

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_LOG_SETTINGS = Path(__file__).with_name("log4j2.properties")
# A JVM for a minute on few rows: its best compiler and its threads would take more than they
# give back (quickstart.py: 41 s of processor time instead of 66). Not for work of your own.
_SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


@contextmanager
def spark_session(
    name: str, master: str = "local[2]", meanwhile: Callable[[], object] = lambda: None
) -> Iterator[SparkSession]:
    """Start Spark and import TensorFlow at the same time; stop Spark at the end.

    Parameters
    ----------
    name : str
        Name of the application.
    master : str
        ``local[N]`` offers N slots; every worker of a training takes one.
    meanwhile : callable
        What else to do while Spark starts.
    """
    # Workers inherit these: the same Python everywhere, and no start-up chatter of TensorFlow.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    # Both need them: here they are not imported by two threads at once.
    import pandas  # noqa: F401
    from pyspark.sql import SparkSession

    builder = (
        SparkSession.builder.master(master)
        .appName(name)
        .config(
            "spark.driver.extraJavaOptions",
            f"{_SHORT_LIVED} -Dlog4j2.configurationFile={_LOG_SETTINGS}",
        )
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
    )
    with waiting("start Spark, import TensorFlow"), ThreadPoolExecutor(1) as other:
        done = other.submit(_import_keras, meanwhile)
        session = builder.getOrCreate()
        done.result()
    try:
        yield session
    finally:
        session.stop()


def _import_keras(then: Callable[[], object]) -> None:
    with without_chatter():
        import keras  # noqa: F401
    then()
