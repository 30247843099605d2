"""What Spark offers: the only reader of Spark's configuration and resources."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from spark_dlobd.errors import ConfigurationError, ResourceError

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession
    from pyspark.sql.types import StructType

logger = logging.getLogger("spark_dlobd")
_COLUMNAR_INPUT = "spark.sql.execution.arrow.pythonUDF.columnarInput.enabled"


@dataclass(frozen=True)
class SparkSlots:
    """How many tasks can run at the same time.

    Attributes
    ----------
    master : str
        The master URL.
    slots : int
        Tasks that run at once over all executors.
    cores_per_task : int
        ``spark.task.cpus``.
    gpus_per_task : float
        ``spark.task.resource.gpu.amount``, 0 without GPUs.
    is_local : bool
        Whether driver and executors share one machine's file system
        (``local``, ``local[N]`` and ``local-cluster``).
    """

    master: str
    slots: int
    cores_per_task: int
    gpus_per_task: float
    is_local: bool


def spark_context(spark: SparkSession) -> SparkContext:
    """Return the classic context of a session.

    Raises
    ------
    ConfigurationError
        If the session is a Spark Connect client, which has none.
    """
    if is_connect(spark):
        raise ConfigurationError(
            "This needs a classic session, and the DataFrame belongs to a Spark Connect session. "
            "Workers of a fit tell the driver how far they have come, over a connection that they "
            "open to it, and a Connect client is no driver that they could reach. Do it in a "
            "classic session, SparkSession.builder.master(...).getOrCreate(), and save the model "
            "there: transform, save and load work with Spark Connect."
        )
    return spark.sparkContext


def is_connect(spark: SparkSession) -> bool:
    """Whether a session is a Spark Connect client, which has neither context nor JVM."""
    return type(spark).__module__.startswith("pyspark.sql.connect")


def cores_per_task(spark: SparkSession) -> int:
    """``spark.task.cpus``, also with Spark Connect."""
    if is_connect(spark):
        return int(spark.conf.get("spark.task.cpus", "1") or 1)
    return slots(spark).cores_per_task


@dataclass(frozen=True)
class WorkerPython:
    """Which Python the workers of a session run: paths, or names on the executors' PATH.

    Attributes
    ----------
    for_rdds : str
        For functions on RDDs: ``PYSPARK_PYTHON`` as it was when the session started.
    for_sql : str
        For functions on DataFrames.
    sql_setting : str or None
        The setting that names `for_sql`; None where it is `for_rdds`.
    named : str or None
        ``spark.pyspark.python``, which PySpark heeds for DataFrames alone unless
        ``spark-submit`` starts the driver.
    is_local : bool
        Whether the workers run on the driver's machine.
    """

    for_rdds: str
    for_sql: str
    sql_setting: str | None
    named: str | None
    is_local: bool


def let_vectors_pass(spark: SparkSession, schema: StructType) -> None:
    """Switch off what makes a Python UDF fail beside a vector that comes straight from a file.

    Spark 4.3 hands the columns of such a scan to Python UDFs as they are, and raises
    UNSUPPORTED_DATATYPE where one of them is of a user-defined type, used or not.
    """
    if '"udt"' not in schema.json() or not spark.conf.isModifiable(_COLUMNAR_INPUT):
        return  # no such column, or no such setting in this version
    if spark.conf.get(_COLUMNAR_INPUT, "true") == "false":
        return
    spark.conf.set(_COLUMNAR_INPUT, "false")
    logger.warning(
        "%s is set to false in this session: with it Spark cannot score rows that have a Vector "
        "column and come straight from a file.",
        _COLUMNAR_INPUT,
    )


def in_spark_thread(spark: SparkSession, function: Callable[[], None]) -> Callable[[], None]:
    """Wrap what a thread runs, so that its jobs have the local properties of this thread."""
    from pyspark import __version__, inheritable_thread_target

    if __version__.startswith("3."):
        return cast(Callable[[], None], inheritable_thread_target(function))
    return cast(Callable[[], None], inheritable_thread_target(spark)(function))


def protection(spark: SparkSession) -> str | None:
    """The setting by which Spark authenticates or encrypts its traffic; None if it does neither."""
    conf = spark_context(spark).getConf()
    names = ("spark.authenticate", "spark.network.crypto.enabled", "spark.ssl.rpc.enabled")
    on = [name for name in names if str(conf.get(name, "false")).lower() == "true"]
    return on[0] if on else None


def worker_python(spark: SparkSession) -> WorkerPython:
    """Read which Python workers run. Runs on the driver."""
    context = spark_context(spark)
    named = context.getConf().get("spark.pyspark.python") or None
    for_sql = spark.conf.get("spark.sql.execution.pyspark.python", None) or None
    setting = "spark.sql.execution.pyspark.python" if for_sql else "spark.pyspark.python"
    chosen = for_sql or named
    return WorkerPython(
        for_rdds=context.pythonExec,
        for_sql=chosen or context.pythonExec,
        sql_setting=setting if chosen else None,
        named=named,
        is_local=(context.master or "").startswith("local"),
    )


def set_worker_python(spark: SparkSession, python: str) -> None:
    """Name the Python of functions that the session sends to workers from now on."""
    spark_context(spark).pythonExec = python


def slots(spark: SparkSession) -> SparkSlots:
    """Count the slots of a session without starting a job. Runs on the driver."""
    context = spark_context(spark)
    conf = context.getConf()
    cores_per_task = int(conf.get("spark.task.cpus", "1") or 1)
    master = context.master or ""
    cores = cores_of_master(master)
    if cores is None:
        cores = _cluster_cores(context)
    return SparkSlots(
        master=master,
        slots=cores // cores_per_task,
        cores_per_task=cores_per_task,
        gpus_per_task=float(conf.get("spark.task.resource.gpu.amount", "0") or 0),
        is_local=master.startswith("local"),
    )


def cores_of_master(master: str) -> int | None:
    """Cores that a ``local...`` master URL promises; None for a real cluster.

    Examples
    --------
    >>> cores_of_master("local[2]"), cores_of_master("local-cluster[2,3,1024]")
    (2, 6)
    >>> cores_of_master("spark://host:7077") is None
    True
    """
    import os

    if master == "local":
        return 1
    if found := re.fullmatch(r"local\[\s*(\*|\d+)\s*(?:,\s*\d+\s*)?\]", master):
        return os.cpu_count() or 1 if found[1] == "*" else int(found[1])
    if found := re.fullmatch(r"local-cluster\[\s*(\d+)\s*,\s*(\d+)\s*,\s*\d+\s*\]", master):
        return int(found[1]) * int(found[2])
    return None


def _cluster_cores(context: SparkContext) -> int:
    conf = context.getConf()
    instances = conf.get("spark.executor.instances")
    cores = conf.get("spark.executor.cores")
    if instances and cores:
        return int(instances) * int(cores)
    registered = int(context._jsc.sc().getExecutorMemoryStatus().size()) - 1
    if cores:
        return max(registered, 1) * int(cores)
    return int(context.defaultParallelism)


def executor_hosts(spark: SparkSession) -> int:
    """Number of machines that run executors now, without starting a job. Runs on the driver."""
    context = spark_context(spark)
    infos = context._jsc.sc().statusTracker().getExecutorInfos()
    hosts = [str(info.host()) for info in infos]
    if cores_of_master(context.master or "") is not None:
        return 1
    # one of the entries is the driver's
    driver = str(context.getConf().get("spark.driver.host"))
    if driver in hosts:
        hosts.remove(driver)
    return max(1, len(set(hosts)))


def executors(spark: SparkSession) -> dict[str, str]:
    """Host of each executor that runs now, by the executor's id. Runs on the driver.

    On a local master that is the driver, whose id is ``"driver"``.
    """
    context = spark_context(spark)
    found = context._jsc.sc().statusStore().executorList(True)
    hosts = {}
    for index in range(found.size()):
        summary = found.apply(index)
        if host := str(summary.hostPort()).rpartition(":")[0]:  # none until it is ready
            hosts[str(summary.id())] = host
    master = context.master or ""
    if master.startswith("local-cluster") or not master.startswith("local"):
        hosts.pop("driver", None)
    return hosts


def expected_executors(spark: SparkSession) -> int | None:
    """How many executors the session shall have; None if nothing says so. Runs on the driver."""
    context = spark_context(spark)
    master = context.master or ""
    if has_dynamic_allocation(spark):
        return None
    if found := re.fullmatch(r"local-cluster\[\s*(\d+)\s*,.*\]", master):
        return int(found[1])
    if master.startswith("local"):
        return 1
    instances = context.getConf().get("spark.executor.instances")
    return int(instances) if instances else None


def has_dynamic_allocation(spark: SparkSession) -> bool:
    """Whether executors come and go, which barrier stages do not bear. Runs on the driver."""
    dynamic = spark_context(spark).getConf().get("spark.dynamicAllocation.enabled", "false")
    return str(dynamic).lower() == "true"


def require_slots(spark: SparkSession, world_size: int) -> SparkSlots:
    """Raise unless `world_size` tasks can run at once. Runs on the driver.

    Spark itself would wait ten minutes before it says that a barrier stage
    does not fit.

    Raises
    ------
    ResourceError
        With the number of slots there are and how to get more.
    """
    available = slots(spark)
    if world_size > available.slots:
        raise ResourceError(
            f"numTrainWorkers={world_size} needs {world_size} slots at the same time, but "
            f"{available.master} offers {available.slots} (spark.task.cpus="
            f"{available.cores_per_task}). Lower numTrainWorkers to at most {available.slots}, "
            "or start Spark with more executors or cores."
        )
    if has_dynamic_allocation(spark):
        raise ResourceError(
            "spark.dynamicAllocation.enabled is true, but Spark runs no barrier stage with it. "
            "Set it to false and spark.executor.instances to the executors you need."
        )
    return available
