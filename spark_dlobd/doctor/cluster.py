"""What a Spark master offers, and its executors beside the driver."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from spark_dlobd.doctor import questions
from spark_dlobd.doctor.compare import EVERY, answers_of, compare
from spark_dlobd.doctor.executors import Request
from spark_dlobd.doctor.finding import BARRIER_BACKENDS, Finding
from spark_dlobd.processes import probes
from spark_dlobd.processes.interpreter_facts import HOROVOD, MODULES, PETASTORM, Facts

# For Spark's end, out of the time that the doctor has for it.
_STOP_S = 15.0


def check_imports(facts: Facts) -> Finding:
    """Whether the driver can import what the package does."""
    failed = {name: text for name, text in facts.errors.items() if name != HOROVOD}
    if failed:
        found = "; ".join(f"{name} does not load: {text}" for name, text in failed.items())
        fix = "Put right what is said above, else install the set in a new environment."
        return Finding("imports", found, "they load", "failed", fix)
    names = ("tensorflow", "keras", PETASTORM)
    return Finding("imports", ", ".join(f"{name} {facts.versions.get(name)}" for name in names))


def check_master(
    master: str, conf: Mapping[str, str], driver: Facts, timeout_s: float
) -> list[Finding]:
    """Start a Spark session on `master`, count its slots and ask each executor.

    Parameters
    ----------
    master : str
        A master URL.
    conf : mapping of str to str
        Settings of the session.
    driver : Facts
        What executors are compared with.
    timeout_s : float
        For everything together.
    """
    modules = [name for name in (*MODULES, PETASTORM, HOROVOD) if name in driver.versions]
    inner_s = max(timeout_s - _STOP_S, timeout_s / 2)
    request = Request(master, dict(conf), modules, inner_s)
    try:
        answer = probes.ask(questions.EXECUTORS, [json.dumps(asdict(request))], timeout_s)
    except probes.ProbeError as error:
        fix = "Check the master URL, Java and the network between driver and master."
        return [Finding("spark master", f"{master}: {error}", "", "failed", fix)]
    return [*offered(answer), *_of_executors(driver, answer)]


def offered(answer: Mapping[str, Any]) -> list[Finding]:
    """Slots and what a task gets. Pure."""
    slots = Finding("slots", str(answer["slots"]), "at least numTrainWorkers")
    if answer["slots"] < 1:
        fix = "Start Spark with more executors or cores, or lower spark.task.cpus."
        slots = Finding("slots", str(answer["slots"]), "1 or more", "failed", fix)
    findings = [
        Finding("spark master", f"{answer['master']}, Spark {answer['version']}"),
        slots,
        Finding("cores per task", str(answer["cores_per_task"])),
        Finding("GPUs per task", f"{answer['gpus_per_task']:g}"),
    ]
    if answer["dynamic"]:
        findings.append(
            Finding(
                "fixed executors",
                "spark.dynamicAllocation.enabled is true: Spark runs no barrier stages",
                "false",
                "absent",
                "Only backend='shuffle' and 'local' train with it. Else set it to false, and "
                "spark.executor.instances.",
                needed_by=BARRIER_BACKENDS,
            )
        )
    return findings


def _of_executors(driver: Facts, answer: Mapping[str, Any]) -> list[Finding]:
    if answer["problem"]:
        return [Finding(EVERY, "not asked", "the driver's packages", "failed", answer["problem"])]
    return compare(driver, answers_of(answer["executors"]), answer["expected"])
