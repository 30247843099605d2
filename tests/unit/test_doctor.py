"""The doctor's verdicts, its comparison of executors with the driver, and its layout."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from spark_dlobd import doctor, spark
from spark_dlobd.doctor import Finding, cluster, executors, verdicts
from spark_dlobd.doctor.compare import Answer, compare, differences
from spark_dlobd.doctor.finding import BACKENDS, HOROVOD, HOROVOD_MPI
from spark_dlobd.doctor.layout import report_lines
from spark_dlobd.processes import probes
from spark_dlobd.processes.interpreter_facts import NO_ANSWER, Facts, read_facts
from spark_dlobd.spark import expected_executors

DRIVER = Facts("/a/python", "3.11.7", {"keras": "3.15.1", "numpy": "1.26.4", "horovod.x": ""})


def test_an_import_that_kills_the_interpreter_is_named(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good_module.py").write_text("__version__ = '2.5'\nprint('{chatter')\n")
    (tmp_path / "bad_module.py").write_text("raise KeyError('x')")
    (tmp_path / "worst_module.py").write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    facts = probes.ask_facts(["good_module", "bad_module", "worst_module"], 60)
    assert facts.executable == sys.executable
    assert facts.versions == {"good_module": "2.5"}
    assert facts.errors == {
        "bad_module": "KeyError: 'x'",
        "worst_module": "the interpreter ended with signal 11 while importing it",
    }


def test_an_import_that_takes_too_long_is_ended(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_module.py").write_text("import threading; threading.Event().wait()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    facts = probes.ask_facts(["slow_module"], 1)
    text = "the interpreter ended with the time limit while importing it"
    assert facts.errors == {"slow_module": text}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x\nValueError: bad\n\tat java.lang.Thread.run\n\t... 4 more\n", "ValueError: bad"),
        (
            "ERROR X: Application has been killed. Reason: All masters are unresponsive!\nlast",
            "All masters are unresponsive!",
        ),
        (
            "py4j.protocol.Py4JJavaError: An error occurred while calling None.S.\n"
            ": java.lang.IllegalStateException: stopped\n\tat x\n\nJVM stack",
            "java.lang.IllegalStateException: stopped",
        ),
        ("\n", ""),
    ],
)
def test_the_line_that_says_why_a_process_failed(text: str, reason: str) -> None:
    assert probes.last_words(text) == reason


def test_an_interpreter_that_says_nothing() -> None:
    with pytest.raises(ValueError, match=r"^SyntaxError: too old$"):
        read_facts(1, "", "File x\nSyntaxError: too old\n")
    with pytest.raises(ValueError, match="ended with -9"):
        read_facts(-signal.SIGKILL, "", "")


def test_what_the_driver_does_not_have_is_not_asked_of_executors() -> None:
    other = Facts("/b/python", "3.11.7", {"numpy": "1.26.4"}, {"torch": "ImportError: no"})
    assert differences(Facts("/a/python", "3.11.7", {"numpy": "1.26.4"}), other) == {}


def test_executors_that_are_like_the_driver() -> None:
    answers = [Answer(str(n), "host", DRIVER) for n in range(3)]
    (finding,) = compare(DRIVER, answers, 3)
    assert finding == Finding("executors", "3 of 3 answered, from /a/python")


def test_the_executor_that_differs_is_named() -> None:
    old = Facts("/a/python", "3.11.7", {**DRIVER.versions, "keras": "3.14.0"})
    answers = [Answer("0", "red", DRIVER), Answer("1", "blue", old), Answer("2", "blue", old)]
    all_heard, differs = compare(DRIVER, answers, None)
    assert all_heard.state == "ok"
    text = "executor 1 on blue, executor 2 on blue: keras 3.14.0, the driver has 3.15.1"
    assert (differs.state, differs.found) == ("failed", text)
    assert "spark.archives" in differs.fix
    assert differs.needed_by == BACKENDS


def test_horovod_that_one_executor_lacks_leaves_the_others_backends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "horovod.tensorflow"
    driver = Facts("/a/python", "3.11.7", {name: "0.28.1"})
    without = Facts("/a/python", "3.11.7", {}, {name: "ModuleNotFoundError: No module"})
    findings = compare(driver, [Answer("7", "blue", without)], 1)
    assert findings[1].found.startswith("executor 7 on blue: horovod.tensorflow does not load")
    works = {verdict.backend: verdict.works for verdict in verdicts(findings)}
    assert works == {backend: "horovod" not in backend for backend in BACKENDS}


def test_executors_that_do_not_answer_or_do_not_come() -> None:
    answers = [
        Answer("0", "red", None, NO_ANSWER),
        Answer("1", "red", None, "Executors cannot start the Python '/x'"),
    ]
    counted, silent, broken = compare(DRIVER, answers, 3)
    assert counted.found == "0 of 3 answered"
    assert (silent.found, "--timeout" in silent.fix) == (f"executor 0 on red: {NO_ANSWER}", True)
    assert "PYSPARK_PYTHON" in broken.fix
    assert {one.state for one in (counted, silent, broken)} == {"failed"}
    (nobody,) = compare(DRIVER, [], None)
    assert (nobody.state, nobody.found) == ("failed", "0 of 0 answered")
    assert "No executor came." in nobody.fix


ANSWER: dict[str, Any] = {
    "version": "4.0.5",
    "master": "spark://m:7077",
    "slots": 2,
    "cores_per_task": 1,
    "gpus_per_task": 0.0,
    "dynamic": False,
    "expected": 1,
    "problem": "",
    "executors": [
        {
            "executor": "0",
            "host": "red",
            "error": "",
            "facts": {"executable": "/a/python", "python": "3.11.7", "versions": {}, "errors": {}},
        }
    ],
}


def asked(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Finding]:
    monkeypatch.setattr(cluster.probes, "ask", lambda *_: ANSWER | changes)
    driver = Facts("/a/python", "3.11.7")
    findings = cluster.check_master("spark://m:7077", {}, driver, 60)
    return {finding.name: finding for finding in findings}


def test_what_a_master_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch)
    assert {name: finding.found for name, finding in found.items()} == {
        "spark master": "spark://m:7077, Spark 4.0.5",
        "slots": "2",
        "cores per task": "1",
        "GPUs per task": "0",
        "executors": "1 of 1 answered, from /a/python",
    }
    assert asked(monkeypatch, slots=0)["slots"].state == "failed"
    problem = asked(monkeypatch, problem="Workers run another Python.")["every executor"]
    assert (problem.state, problem.fix) == ("failed", "Workers run another Python.")


def test_dynamic_allocation_leaves_the_shuffle(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch, dynamic=True)
    works = [verdict.backend for verdict in verdicts(list(found.values())) if verdict.works]
    assert works == ["local", "shuffle"]


def test_master_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object) -> None:
        raise probes.ProbeError("no answer within 1 s")

    monkeypatch.setattr(cluster.probes, "ask", ask)
    (finding,) = cluster.check_master("spark://nowhere:7077", {}, DRIVER, 1)
    assert finding.state == "failed"
    assert "spark://nowhere:7077: no answer within 1 s" in finding.found


def test_the_path_of_a_clusters_python_need_not_exist_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("check_packages", "check_master"):
        monkeypatch.setattr(doctor, name, lambda *_: [])
    for name in ("check_java", "check_mpirun", "check_nccl", "check_gpus"):
        monkeypatch.setattr(doctor, name, lambda: Finding("x", "y"))
    for name in ("check_horovod", "check_ucx"):
        monkeypatch.setattr(doctor, name, lambda timeout_s: Finding("x", "y"))
    monkeypatch.setattr(doctor.probes, "ask_facts", lambda *_: DRIVER)
    monkeypatch.setenv("PYSPARK_PYTHON", "./environment/bin/python")
    names = [finding.name for finding in doctor.diagnose("spark://m:7077")]
    assert "workers' Python" not in names
    names = [finding.name for finding in doctor.diagnose("local[2]")]
    assert "workers' Python" in names


@pytest.mark.parametrize(
    ("master", "conf", "expected"),
    [
        ("local[4]", {}, 1),
        ("local-cluster[3,2,1024]", {}, 3),
        ("yarn", {"spark.executor.instances": "5"}, 5),
        ("spark://m:7077", {}, None),
        (
            "k8s://m",
            {"spark.executor.instances": "5", "spark.dynamicAllocation.enabled": "true"},
            None,
        ),
    ],
)
def test_how_many_executors_there_shall_be(
    master: str, conf: dict[str, str], expected: int | None
) -> None:
    context = SimpleNamespace(master=master, getConf=lambda: {**conf})
    session: Any = SimpleNamespace(sparkContext=context)
    assert expected_executors(session) == expected


def test_executors_that_come_one_after_the_other_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = iter([{}, {"0": "red"}, {"0": "red"}, {"0": "red", "1": "blue"}])
    last: dict[str, str] = {}

    def now(session: object) -> dict[str, str]:
        last.update(next(seen, {}))
        return dict(last)

    monkeypatch.setattr(spark, "executors", now)
    monkeypatch.setattr(executors, "_POLL_S", 0.01)
    session: Any = None
    deadline = time.monotonic() + 60
    assert executors.wait_for_executors(session, 2, deadline) == {"0": "red", "1": "blue"}
    monkeypatch.setattr(executors, "_SETTLED_S", 0.05)
    assert executors.wait_for_executors(session, None, deadline) == {"0": "red", "1": "blue"}
    began = time.monotonic()
    assert len(executors.wait_for_executors(session, 3, began + 0.2)) == 2
    assert time.monotonic() - began < 10


LONG = "/a/folder/with/a-long-name/that-is/longer/than-any/narrow-terminal/bin/python"
COMMANDS = ("pip install 'spark-dlobd[horovod-build]'", f"{LONG} -m pip install 'keras==3.15.1'")
FINDINGS = [
    Finding("workers' Python", f"PYSPARK_PYTHON is not set: {LONG} on a local master"),
    Finding(
        "horovod",
        "not installed",
        "",
        "absent",
        "PyPI has no wheel of it; this builds one, once per machine, in about five minutes.",
        COMMANDS,
        (HOROVOD, HOROVOD_MPI),
    ),
]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_what_one_has_to_copy_is_never_broken(width: int) -> None:
    lines = [str(line) for line in report_lines(FINDINGS, verdicts(FINDINGS), None, width)]
    assert [line.strip() for line in lines if "pip" in line] == list(COMMANDS) * 2
    assert sum(LONG in line for line in lines) == 3
    free = [line for line in lines if LONG not in line]
    assert max(map(len, free)) <= width


def test_the_report_ends_with_a_verdict_on_each_backend() -> None:
    lines = [str(line) for line in report_lines(FINDINGS, verdicts(FINDINGS), None, 100)]
    assert lines[lines.index("Backends on this machine") + 1 :] == [
        "works   local",
        "works   shuffle",
        "works   collective",
        "works   parameter_server",
        "needs   horovod                  horovod (not installed)",
        *(f"          {command}" for command in COMMANDS),
        "needs   horovod, controller mpi  horovod (not installed)",
    ]


def test_a_fix_of_several_rows_is_said_once() -> None:
    rows: Sequence[Finding] = [
        Finding("a", "wrong", state="failed", fix="Mend it."),
        Finding("b", "wrong", state="failed", fix="Mend it."),
    ]
    lines = [str(line) for line in report_lines(rows, [], "spark://m:7077", 80)]
    assert lines.count("        Mend it.") == 1
    assert "Backends on spark://m:7077" in lines


def test_a_child_finds_what_a_worker_finds() -> None:
    code = "import json, sys; print(json.dumps([sys.argv[1:], sys.path]))"
    expression = executors._EXPRESSION.format(code=code, arguments=["a", "b'"], timeout_s=60)
    status, output, _ = json.loads(eval(expression))
    arguments, path = json.loads(output)
    assert (status, arguments) == (0, ["a", "b'"])
    assert [entry for entry in sys.path if entry not in path] == []
