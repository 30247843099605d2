"""The Spark session of one case."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from spark_dlobd.characterize.run.case_request import CaseRequest
from spark_dlobd.characterize.run.hosts import EmulatedHosts

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_LEAST_HEAP_MIB, _MOST_HEAP_MIB = 1024, 4096


@contextmanager
def case_session(request: CaseRequest) -> Iterator[SparkSession]:
    """Start what the case runs on, and stop it at the end. Runs on the driver.

    A case with `link_mbit` gets emulated hosts, one a worker; any other the request's
    master, by default ``local`` with as many slots as it has workers.
    """
    from pyspark.sql import SparkSession

    with contextlib.ExitStack() as stack:
        conf = session_conf(request)
        master = request.master or f"local[{request.case.workers}]"
        if request.case.link_mbit is not None:
            hosts = stack.enter_context(
                EmulatedHosts(
                    request.case.workers,
                    f"{request.case.link_mbit}mbit",
                    environment={"SPARK_LOCAL_DIRS": str(request.folder)},
                )
            )
            master = hosts.master_url
            conf = {"spark.executor.memory": "1g", **conf, **hosts.spark_conf()}
        builder = SparkSession.builder.master(master).appName(f"characterize {request.case.id}")
        for name, value in {**conf, **request.conf}.items():
            builder = builder.config(name, value)
        spark = builder.getOrCreate()
        stack.callback(spark.stop)
        yield spark


def session_conf(request: CaseRequest) -> dict[str, str]:
    """Settings of the session but for the request's own. Pure but for the machine's memory."""
    conf = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": str(request.case.workers),
        "spark.sql.execution.arrow.pyspark.enabled": "true",
    }
    if request.on_this_machine:
        conf["spark.local.dir"] = str(request.folder)
        conf["spark.driver.memory"] = f"{heap_mib()}m"
        conf["spark.driver.extraJavaOptions"] = f"-Djava.io.tmpdir={request.folder}"
    if request.case.link_mbit is None and (request.master or "local").startswith("local"):
        conf["spark.driver.bindAddress"] = conf["spark.driver.host"] = "127.0.0.1"
    return conf


def heap_mib() -> int:
    """Memory of the driver's JVM: a quarter of the machine's, between 1 and 4 GiB."""
    import psutil

    quarter = psutil.virtual_memory().total // 4 // 2**20
    return int(min(max(quarter, _LEAST_HEAP_MIB), _MOST_HEAP_MIB))
