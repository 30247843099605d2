"""Asks every executor of a Spark application for its facts.

Runs on the driver, in a process of its own that the doctor can end: started with a request as
JSON, it prints the answers as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from spark_dlobd.errors import ConfigurationError
from spark_dlobd.processes.interpreter_facts import CODE, NO_ANSWER, read_facts

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    from spark_dlobd.processes.spark_job import SparkJob

_SETTLED_S = 5.0
_POLL_S = 0.2
# Tasks that call executors: each asks for a core, and they hold the others up only shortly.
_CALLS = 32
# How long after its time limit a child process may take to be ended.
_GRACE_S = 5

# An expression of the standard library alone: the executor may have nothing else. The child
# finds modules where the worker does, which files sent with the job belong to.
_EXPRESSION = (
    "(lambda json, os, subprocess, sys: json.dumps((lambda done: [done.returncode, done.stdout, "
    "done.stderr[-4000:]])(subprocess.run([sys.executable, '-c', {code!r}] + {arguments!r}, "
    "stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, "
    "universal_newlines=True, timeout={timeout_s}, "
    "env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), TF_CPP_MIN_LOG_LEVEL='2')"
    "))))(__import__('json'), __import__('os'), __import__('subprocess'), __import__('sys'))"
)


@dataclass(frozen=True)
class Request:
    """What the process is asked.

    Attributes
    ----------
    master : str
        A master URL.
    conf : dict of str to str
        Settings of the session.
    modules : list of str
        What executors shall import.
    timeout_s : float
        For Spark's start and the answers, together.
    """

    master: str
    conf: dict[str, str]
    modules: list[str]
    timeout_s: float


def main() -> None:
    """Print the answers to the request in the first argument."""
    print(json.dumps(survey(Request(**json.loads(sys.argv[1])))))


def survey(request: Request) -> dict[str, Any]:
    """Start a session, ask its executors, stop it. See `survey_session`."""
    from pyspark.sql import SparkSession

    deadline = time.monotonic() + request.timeout_s
    builder = SparkSession.builder.master(request.master).appName("spark-dlobd doctor")
    settings = {
        "spark.ui.enabled": "false",
        **request.conf,
        # a task runs on the executor that it is meant for, or not at all
        "spark.locality.wait": f"{int(request.timeout_s) + 60}s",
        "spark.task.maxFailures": "1",
    }
    for key, value in settings.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    try:
        return survey_session(spark, request.modules, deadline)
    finally:
        spark.stop()


def survey_session(spark: SparkSession, modules: list[str], deadline: float) -> dict[str, Any]:
    """What a session offers, and what each of its executors says until `deadline`."""
    from spark_dlobd.processes.worker_interpreter import prepare_workers
    from spark_dlobd.spark import expected_executors, has_dynamic_allocation, slots

    answer: dict[str, Any] = {
        "version": spark.version,
        "dynamic": has_dynamic_allocation(spark),
        "expected": expected_executors(spark),
        "problem": "",
        "executors": [],
    }
    try:
        prepare_workers(spark)
    except ConfigurationError as error:
        answer["problem"] = str(error)
    else:
        if answer["dynamic"]:
            _call_executors(spark)
        found = wait_for_executors(spark, answer["expected"], deadline)
        answer["executors"] = ask_executors(spark, found, modules, deadline)
    return answer | asdict(slots(spark))


def _call_executors(spark: SparkSession) -> None:
    """With dynamic allocation executors come where there is work: start a job without Python."""
    from spark_dlobd.processes.spark_job import SparkJob

    def action(_: SparkContext) -> list[bytes]:
        spark.range(0, _CALLS, 1, _CALLS).count()
        return []

    SparkJob(spark, action, "spark-dlobd-doctor", "spark-dlobd: doctor calls executors").start()


def wait_for_executors(
    spark: SparkSession, expected: int | None, deadline: float
) -> dict[str, str]:
    """Host of each executor, once all expected ones are there.

    Where nothing says how many there shall be, once no other has come for five seconds.
    """
    from spark_dlobd.spark import executors

    # half of the time is theirs who answer
    deadline -= max(deadline - time.monotonic(), 0.0) / 2
    found: dict[str, str] = {}
    changed = time.monotonic()
    while time.monotonic() < deadline:
        now = executors(spark)
        if now.keys() != found.keys():
            found, changed = now, time.monotonic()
        settled = found and time.monotonic() - changed > _SETTLED_S
        if settled if expected is None else len(found) >= expected:
            break
        time.sleep(_POLL_S)
    return found


def ask_executors(
    spark: SparkSession, hosts: Mapping[str, str], modules: list[str], deadline: float
) -> list[dict[str, Any]]:
    """Run one task on each executor, all at the same time; what does not end is cancelled."""
    from spark_dlobd.processes.spark_job import SparkJob

    limit_s = max(int(deadline - time.monotonic()) - _GRACE_S, 1)
    code = _EXPRESSION.format(
        code=CODE, arguments=[str(limit_s), *modules], timeout_s=limit_s + _GRACE_S
    )
    jobs = {
        executor: SparkJob(
            spark,
            on_executor(executor, code),
            f"spark-dlobd-doctor-{executor}",
            f"spark-dlobd: doctor, executor {executor}",
        )
        for executor in hosts
    }
    for job in jobs.values():
        job.start()
    for job in jobs.values():
        job.join(max(deadline - time.monotonic(), 0.0))
    late = {name for name, job in jobs.items() if job.is_running}
    for name in late:
        jobs[name].cancel()
    return [
        {"executor": name, "host": hosts[name], **_answer(spark, job, name in late)}
        for name, job in jobs.items()
    ]


def on_executor(executor: str, code: str) -> Callable[[SparkContext], list[bytes]]:
    """Return the action of one task that evaluates `code` on one executor."""

    def action(context: SparkContext) -> list[bytes]:
        from pyspark import RDD
        from pyspark.serializers import UTF8Deserializer

        jvm: Any = context._jvm
        # Spark's form of a place, in which the host does not count; the one element is the
        # one partition, which is there.
        place = jvm.PythonUtils.toSeq([f"executor_any_{executor}"])
        elements = jvm.PythonUtils.toSeq([jvm.scala.Tuple2(code, place)])
        kind = jvm.scala.reflect.ClassTag.apply(jvm.java.lang.Class.forName("java.lang.String"))
        placed = context._jsc.sc().makeRDD(elements, kind).toJavaRDD()
        rdd: RDD[Any] = RDD(placed, context, UTF8Deserializer())  # type: ignore[arg-type]
        return rdd.map(eval).map(str.encode).collect()

    return action


def _answer(spark: SparkSession, job: SparkJob, is_late: bool) -> dict[str, Any]:
    from spark_dlobd.backends.gang import first_line_of_cause
    from spark_dlobd.processes.worker_interpreter import known_error
    from spark_dlobd.spark import spark_context

    if job.rows:
        try:
            return {"facts": asdict(read_facts(*json.loads(job.rows[0]))), "error": ""}
        except ValueError as error:
            return {"facts": None, "error": str(error)}
    if is_late or job.error is None:
        return {"facts": None, "error": NO_ANSWER}
    known = known_error(job.error, spark_context(spark))
    text = str(job.error).strip() or type(job.error).__name__
    reason = str(known or first_line_of_cause(text) or text.splitlines()[0])
    return {"facts": None, "error": reason}
