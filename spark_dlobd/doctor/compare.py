"""The executors beside the driver. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spark_dlobd.doctor.finding import BACKENDS, HOROVOD, HOROVOD_MPI, Finding
from spark_dlobd.processes.interpreter_facts import HOROVOD as HOROVOD_MODULE
from spark_dlobd.processes.interpreter_facts import NO_ANSWER, Facts

SAME = "same environment"
EVERY = "every executor"
_EXPECTED = "the driver's Python, versions and imports"
_FIX = (
    "Give every executor the driver's environment at the path that PYSPARK_PYTHON names, or send "
    "it along: --conf spark.archives=environment.tar.gz#environment with "
    "PYSPARK_PYTHON=./environment/bin/python."
)
_NONE_FIX = (
    "No executor came. Is the cluster busy, or has no host the memory and cores that one asks for "
    "(spark.executor.memory, spark.executor.cores)? Or wait longer: --timeout."
)
_SILENT_FIX = "Look at the executor's log and at its host, or wait longer: --timeout."


@dataclass(frozen=True)
class Answer:
    """What one executor said.

    Attributes
    ----------
    executor, host : str
        Its id, and where it runs.
    facts : Facts or None
        None if it told none.
    error : str
        Why not.
    """

    executor: str
    host: str
    facts: Facts | None = None
    error: str = ""

    @property
    def name(self) -> str:
        """Id and host."""
        return f"executor {self.executor} on {self.host}"


def answers_of(told: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """The answers, from JSON."""
    return [
        Answer(
            one["executor"],
            one["host"],
            None if one["facts"] is None else Facts(**one["facts"]),
            one["error"],
        )
        for one in told
    ]


def compare(driver: Facts, answers: Sequence[Answer], expected: int | None) -> list[Finding]:
    """How many executors answered, and those that differ from the driver by name.

    Parameters
    ----------
    driver : Facts
        Of the doctor's own interpreter.
    answers : sequence of Answer
        Of all executors that are there.
    expected : int or None
        How many there should be, if anything says so.
    """
    silent = [answer for answer in answers if answer.facts is None]
    total = max(len(answers), expected or 0)
    heard = len(answers) - len(silent)
    pythons = sorted({answer.facts.executable for answer in answers if answer.facts})
    found = f"{heard} of {total} answered" + (f", from {', '.join(pythons)}" if pythons else "")
    findings = [
        Finding("executors", found)
        if heard == total > 0
        else Finding(
            EVERY, found, "an answer of each", "failed", _SILENT_FIX if answers else _NONE_FIX
        )
    ]
    for error, names in _grouped([(answer.error, answer) for answer in silent]):
        lost = error == NO_ANSWER or "ExecutorLostFailure" in error
        fix = _SILENT_FIX if lost else _FIX
        findings.append(Finding(EVERY, f"{names}: {error}", _EXPECTED, "failed", fix))
    return [*findings, *_differing(driver, answers)]


def _differing(driver: Facts, answers: Sequence[Answer]) -> list[Finding]:
    for_all, for_horovod = [], []
    for answer in answers:
        if answer.facts is not None:
            texts = differences(driver, answer.facts)
            horovod = texts.pop(HOROVOD_MODULE, None)
            if texts:
                for_all.append(("; ".join(texts.values()), answer))
            if horovod:
                for_horovod.append((horovod, answer))
    return [
        Finding(SAME, f"{names}: {text}", _EXPECTED, "failed", _FIX, (), backends)
        for backends, texts in ((BACKENDS, for_all), ((HOROVOD, HOROVOD_MPI), for_horovod))
        for text, names in _grouped(texts)
    ]


def differences(driver: Facts, other: Facts) -> dict[str, str]:
    """Text of each difference that counts, by module.

    Examples
    --------
    >>> driver = Facts("/a/python", "3.11.7", {"keras": "3.15.1", "numpy": "1.26.4"})
    >>> other = Facts("/b/python", "3.11.7", {"numpy": "1.26.4"}, {"keras": "KeyError: 1"})
    >>> differences(driver, other)
    {'keras': 'keras does not load: KeyError: 1'}
    """
    found = {}
    if other.python != driver.python:
        found["python"] = f"Python {other.python}, the driver has {driver.python}"
    for module, own in driver.versions.items():
        version = other.versions.get(module, "")
        if module in other.errors:
            found[module] = f"{module} does not load: {other.errors[module]}"
        elif own and version and own != version:
            found[module] = f"{module} {version}, the driver has {own}"
    return found


def _grouped(texts: Sequence[tuple[str, Answer]]) -> list[tuple[str, str]]:
    """Each text once, with the names of its executors."""
    groups: dict[str, list[str]] = {}
    for text, answer in texts:
        groups.setdefault(text, []).append(answer.name)
    return [(text, ", ".join(names)) for text, names in groups.items()]
