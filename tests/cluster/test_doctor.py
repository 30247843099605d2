"""The doctor asks every executor of a cluster, and names the one that differs."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path

import pytest

from spark_dlobd.doctor import verdicts
from spark_dlobd.doctor.cluster import check_master
from spark_dlobd.processes.interpreter_facts import Facts

pytestmark = [pytest.mark.usefixtures("nothing_left"), pytest.mark.timeout(300)]

# The work directory of an executor ends with its id.
PYTHON = """#!/bin/sh
case "$PWD" in */1) export PYTHONPATH="{folder}:$PYTHONPATH";; esac
exec "{python}" "$@"
"""


def test_one_of_two_executors_has_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "petastorm.py").write_text("__version__ = '0.0.1'\n")
    python = tmp_path / "python"
    python.write_text(PYTHON.format(folder=tmp_path, python=sys.executable))
    python.chmod(0o755)
    monkeypatch.setenv("PYSPARK_PYTHON", str(python))
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    version = importlib.metadata.version("petastorm")
    driver = Facts(sys.executable, platform.python_version(), {"petastorm": version})
    conf = {"spark.executor.memory": "512m"}
    master = "local-cluster[2,1,512]"
    findings = check_master(master, conf, driver, timeout_s=200)
    rows = {finding.name: finding for finding in findings}
    assert rows["executors"].found == f"2 of 2 answered, from {sys.executable}"
    assert rows["slots"].found == "2"
    differ = {finding.found for finding in findings if finding.name == "same environment"}
    assert differ == {f"executor 1 on 127.0.0.1: petastorm 0.0.1, the driver has {version}"}
    assert not any(verdict.works for verdict in verdicts(findings))
