"""What a Spark application offers and costs, probed once. Runs on the driver."""

from __future__ import annotations

import functools
import json
import secrets
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spark_dlobd.backends.shuffle.spark.exchange import Exchange
from spark_dlobd.cost.link_task import LinkTask, run_link_task
from spark_dlobd.cost.measured import ClusterCost
from spark_dlobd.cost.stages import last_stage, moving_stage, places
from spark_dlobd.errors import ResourceError, TrainingError, TrainingTimeoutError
from spark_dlobd.processes.spark_job import SparkJob, barrier_stage
from spark_dlobd.processes.worker_interpreter import worker_problem
from spark_dlobd.spark import SparkSlots, executor_hosts, slots, spark_context

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

PROBE_TIMEOUT_S = 60.0
"""Longest wait for each part of a probe."""
_STAGES_S = 2.5
_ITERATIONS = 8
_LARGE_BYTES = 4 << 20
_LARGE_ROUNDS = 3
_KEPT = 4

_known: OrderedDict[str, ClusterCost] = OrderedDict()
_probing = threading.Lock()


def probe_cluster(
    spark: SparkSession,
    workers: int,
    timeout_s: float = PROBE_TIMEOUT_S,
) -> ClusterCost:
    """Measure what the application of `spark` costs, or return what is known of it.

    Parameters
    ----------
    spark : SparkSession
        Its application is probed once.
    workers : int
        Tasks at once while probing, at most as many as there are slots. What one task alone
        has measured does not do for several.
    timeout_s : float, default 60
        Longest wait for each of the two parts.

    Raises
    ------
    TrainingError
        If Spark gave the probe up, or it took too long.
    """
    application = str(spark_context(spark).applicationId)
    with _probing:
        known = _known.get(application)
        # one task alone has seen no network
        if known is None or (known.bytes_per_s is None and workers > 1):
            known = _known[application] = _measured(spark, workers, timeout_s)
            while len(_known) > _KEPT:
                _known.popitem(last=False)
    return known


def _measured(spark: SparkSession, workers: int, timeout_s: float) -> ClusterCost:
    available = slots(spark)
    if available.slots < 1:
        raise ResourceError(f"{available.master} offers no slot to probe.")
    together = max(1, min(workers, available.slots))
    began = time.monotonic()
    link = LinkTask(driver_host(spark), secrets.token_bytes(32), timeout_s)
    stage = barrier_stage(together, functools.partial(run_link_task, link))
    told = [json.loads(row) for row in run_job(spark, stage, "probe the network", timeout_s)]
    link_s = time.monotonic() - began
    began = time.monotonic()
    measure = functools.partial(_stage_costs, together)
    stages = json.loads(run_job(spark, measure, "probe the shuffle", timeout_s)[0])
    seconds = {"network": link_s, "shuffle": time.monotonic() - began}
    return _summary(available, executor_hosts(spark), told, stages, seconds)


def _summary(
    available: SparkSlots,
    hosts: int,
    told: list[dict[str, Any]],
    stages: dict[str, float],
    seconds: dict[str, float],
) -> ClusterCost:
    """The slowest of what each task told. Pure."""
    latency = bytes_per_s = None
    if len(told) > 1:
        latency = max(each["latency_s"] for each in told)
        slowest = max(each["exchange_s"] for each in told)
        bytes_per_s = told[0]["exchange_bytes"] / max(slowest - latency, 1e-6)
    copy_bytes_per_s = min(each["copy_bytes_per_s"] for each in told)
    return ClusterCost(
        slots=available.slots,
        hosts=max(hosts, len({each["address"] for each in told})),
        cores_per_host=min(each["cores"] for each in told),
        cores_per_task=available.cores_per_task,
        memory_bytes_per_host=min(each["memory_bytes"] for each in told),
        workers=len(told),
        latency_s=latency,
        bytes_per_s=bytes_per_s,
        copy_bytes_per_s=copy_bytes_per_s,
        stage_s=stages["stage_s"],
        # a difference of two noisy times; nothing moves faster than memory is copied
        stage_bytes_per_s=min(stages["stage_bytes_per_s"], copy_bytes_per_s),
        job_s=stages["job_s"],
        seconds=seconds,
    )


def driver_host(spark: SparkSession) -> str:
    """Address at which executors reach the driver."""
    return str(spark_context(spark).getConf().get("spark.driver.host") or "127.0.0.1")


def run_job(
    spark: SparkSession,
    action: Callable[[SparkContext], list[bytes]],
    description: str,
    timeout_s: float,
) -> list[bytes]:
    """Run an action that may not take longer than `timeout_s`.

    Raises
    ------
    TrainingError
        If Spark gave it up.
    TrainingTimeoutError
        If it took too long.
    """
    name = f"spark-dlobd: {description}"
    job = SparkJob(spark, action, f"spark-dlobd-probe-{uuid.uuid4().hex[:12]}", name)
    job.start()
    try:
        job.join(timeout_s)
        if job.is_running:
            raise TrainingTimeoutError(
                f"The job '{name}' did not end within {timeout_s:g} s. Are the slots busy, or is a "
                "firewall between the executors?"
            )
    finally:
        if job.is_running:
            job.cancel()
            job.join()
    if job.error is not None:
        text = str(job.error).strip()
        reason = worker_problem(text) or (text or type(job.error).__name__).splitlines()[0]
        raise TrainingError(f"The job '{name}' failed: {reason}") from job.error
    return job.rows


def _stage_costs(partitions: int, context: SparkContext) -> list[bytes]:
    """Time chains of empty and of large records; a JSON object.

    The JVM compiles what it runs often, so the fastest run comes nearest to a fit.
    """
    exchange = Exchange(context, partitions, functools.partial(places, partitions))
    try:
        exchange.place()
        chains = _Chains(exchange)
        short, long = [chains.seconds(1, 8)], [chains.seconds(_ITERATIONS, 8)]
        deadline = time.monotonic() + _STAGES_S
        while time.monotonic() < deadline:
            short.append(chains.seconds(1, 8))
            long.append(chains.seconds(_ITERATIONS, 8))
        record = _LARGE_BYTES // partitions
        large = [chains.seconds(2, record)]
        deadline = time.monotonic() + _STAGES_S / 2
        while len(large) < _LARGE_ROUNDS and time.monotonic() < deadline:
            large.append(chains.seconds(2, record))
    finally:
        exchange.close()
    return [json.dumps(stage_summary(min(short), min(long), min(large))).encode()]


def stage_summary(short: float, long: float, large: float) -> dict[str, float]:
    """Costs from seconds of jobs with 2, 16 and 4 stages, the last with 4 MiB a worker. Pure.

    Examples
    --------
    >>> found = stage_summary(short=0.16, long=0.58, large=0.42)
    >>> round(found["stage_s"], 4), round(found["job_s"], 4)
    (0.03, 0.1)
    >>> round(found["stage_bytes_per_s"] / 2**20)
    60
    """
    stage = max((long - short) / (2 * _ITERATIONS - 2), 1e-4)
    job = max(short - 2 * stage, 0.0)
    # the last stage sends nothing
    moving = max((large - job - 4 * stage) / 3, 1e-4)
    return {"stage_s": stage, "job_s": job, "stage_bytes_per_s": _LARGE_BYTES / moving}


class _Chains:
    """Runs chains of stages without work."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._last = exchange.function(last_stage)

    def seconds(self, iterations: int, size: int) -> float:
        """Seconds of two stages an iteration, in one job."""
        stage = functools.partial(moving_stage, self._exchange.partitions, size)
        moving = self._exchange.function(stage)
        stages = [("probe", moving)] * (2 * iterations - 1)
        chain = self._exchange.chain([*stages, ("probe", self._last)])
        began = time.perf_counter()
        try:
            chain.collect()
            return time.perf_counter() - began
        finally:
            chain.remove_shuffles()
