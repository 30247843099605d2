"""The command ``spark-dlobd characterize`` as users start it, on tiny data."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import spark_dlobd
from spark_dlobd.characterize.results.file import ResultsFile

SWEEP = (
    "models=softmax", "data=generated-mnist", "workers=1", "batch=50", "rows=200", "test_rows=50",
    "time_limit_s=120",
)  # fmt: skip
_TREE = Path(spark_dlobd.__file__).parents[1]


WITHOUT_HOROVOD = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "horovod" else found(name, *more)
"""


class Sweeps:
    """Starts the command with temporary files in a folder of the test."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "out"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.started: list[subprocess.Popen[str]] = []
        self.modules = folder / "modules"

    def without_horovod(self) -> None:
        """Let every Python that is started from now on not find it."""
        self.modules.mkdir()
        (self.modules / "sitecustomize.py").write_text(WITHOUT_HOROVOD)

    def start(self, *words: str) -> subprocess.Popen[str]:
        path = os.pathsep.join(map(str, (self.modules, _TREE)))
        environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(self.temporary)}
        environment.pop("MLFLOW_TRACKING_URI", None)
        program = "from spark_dlobd.cli import main; main()"
        command = [sys.executable, "-c", program, "characterize", *words]
        process = subprocess.Popen(
            [*command, "--output", str(self.output)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        text, _ = process.communicate(timeout=200)
        return process.returncode, text

    @property
    def records(self) -> list[Any]:
        return list(ResultsFile(self.output / "results.jsonl").read().records)

    def processes(self) -> list[int]:
        """Those whose temporary files are this test's, the command itself left out."""
        found = []
        for process in psutil.process_iter(["pid", "environ", "status"]):
            folder = (process.info["environ"] or {}).get("TMPDIR", "")
            if folder.startswith(f"{self.temporary}/"):
                found.append(process.info["pid"])
        return found


@pytest.fixture
def sweeps(tmp_path: Path) -> Iterator[Sweeps]:
    made = Sweeps(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=10)
    assert until(lambda: not made.processes(), 30), "a case outlived its sweep"


def until(happened: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if happened():
            return True
        time.sleep(0.1)
    return happened()


def mlflow_runs(folder: Path) -> list[tuple[str, str]]:
    import sqlite3

    with sqlite3.connect(folder / "mlflow.db") as store:
        return store.execute("select name, status from runs order by start_time").fetchall()


@pytest.mark.timeout(600)
def test_a_sweep_is_interrupted_and_goes_on(sweeps: Sweeps) -> None:
    words = (*SWEEP, "backends=local,shuffle", "name=two backends")
    process = sweeps.start(*words)
    logs = sweeps.output / "logs"
    assert until(lambda: len(list(logs.glob("*shuffle*"))) == 1, 150), process.poll()

    code, text = sweeps.run(*words)
    assert (code, "Another sweep is at work in" in text) == (1, True), text

    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "Ending the running case" in text
    assert re.search(r"to go on:\n.*backends=local,shuffle", text)
    assert [record.case.backend for record in sweeps.records] == ["local"]
    assert "two backends" in (sweeps.output / "index.html").read_text()
    assert not sweeps.processes()
    assert not list(sweeps.temporary.iterdir())

    code, text = sweeps.run(*words)
    assert code == 0, text
    assert "1 of 2 cases have a result: skipped." in text
    local, shuffle = sweeps.records
    assert shuffle.case.backend == "shuffle" and shuffle.finished
    assert shuffle.explanation["weights"] == 7850 and not local.explanation
    assert "Predicted and measured" in (sweeps.output / "index.html").read_text()
    assert local.test_accuracy == pytest.approx(shuffle.test_accuracy, abs=0.05)
    assert shuffle.data["generated"] and shuffle.data["rows"] == 200
    assert "val_accuracy" in shuffle.report["metrics_over_time"]
    assert shuffle.wall_seconds > shuffle.seconds > 0
    assert [path.suffix for path in sorted((sweeps.output / "figures").iterdir())][:1] == [".png"]
    assert "| Spark shuffle | 1 |" in (sweeps.output / "results.md").read_text()
    assert mlflow_runs(sweeps.output) == [
        ("two backends", "FINISHED"), (local.case.id, "FINISHED"), (shuffle.case.id, "FINISHED"),
    ]  # fmt: skip
    assert not list(sweeps.temporary.iterdir())


@pytest.mark.timeout(200)
def test_a_broken_file_fails_a_case_and_a_short_limit_ends_one(
    sweeps: Sweeps, tmp_path: Path
) -> None:
    broken = tmp_path / "mnist"
    broken.mkdir()
    (broken / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03cut off")
    words = ("models=softmax", f"paths=mnist:{broken}", "backends=local", "workers=1")
    code, text = sweeps.run(*words, "--no-mlflow")
    assert code == 1
    assert re.search(r"\[1/1\] softmax-mnist-local.* failed: DataError: .*idx3-ubyte", text), text
    assert "1 of 1 cases did not finish" in text

    code, text = sweeps.run(*words, "batch=64", "time_limit_s=2", "--no-mlflow")
    assert code == 1
    assert "timed out: It was not done after its time limit of 2 s" in text
    assert [record.status for record in sweeps.records] == ["failed", "timed out"]
    page = (sweeps.output / "index.html").read_text()
    assert "timed out" in page and "Traceback" in page
    assert not sweeps.processes()


@pytest.mark.timeout(150)
@pytest.mark.parametrize("when", ["as the JVM starts", "as Spark runs"])
def test_a_case_dies_with_a_killed_sweep(sweeps: Sweeps, when: str) -> None:
    process = sweeps.start(*SWEEP, "backends=local", "--no-mlflow")
    if when == "as the JVM starts":
        # the process of the case, and what it has started
        assert until(lambda: len(sweeps.processes()) >= 2, 60)
    else:
        logs = sweeps.output / "logs"
        said = "Setting default log level"
        assert until(lambda: any(said in log.read_text() for log in logs.glob("*")), 60)
    process.kill()
    process.communicate(timeout=10)
    assert until(lambda: not sweeps.processes(), 30), sweeps.processes()
    assert sweeps.records == []


def test_what_cannot_run_is_refused_before_anything_is_written(sweeps: Sweeps) -> None:
    for words, said in [
        (("models=vgg", "backends=local"), "models must be of 'softmax', 'lenet'"),
        (("models=lenet", "backends=spark"), "backends must be of 'local', 'horovod'"),
        (("models=alexnet", "backends=local"), "'imagenet' needs the path of a folder"),
        (("models=lenet", "paths=mnist:/nowhere", "backends=local"), "not a folder: '/nowhere'"),
        ((*SWEEP, "backends=shuffle", "workers=3", "--master", "local[2]"), "local[2] offers 2"),
    ]:
        code, text = sweeps.run(*words)
        assert code == 2, text
        assert said in text
    assert not (sweeps.output / "results.jsonl").exists()
    assert not list(sweeps.output.glob("logs"))


@pytest.mark.timeout(600)
def test_quick_needs_neither_file_nor_horovod(sweeps: Sweeps) -> None:
    sweeps.without_horovod()
    code, text = sweeps.run("--quick", "--dry-run")
    assert code == 0, text
    assert re.search(r"3 of 3 runs to do, about [\d.]+ (s|min)", text), text
    assert "Left out: horovod: it is not installed, `spark-dlobd build-horovod`" in text

    code, text = sweeps.run("--quick", "backends=horovod")
    assert (code, "Error: Nothing of this sweep can run here: horovod" in text) == (2, True), text
    assert not sweeps.output.exists()

    small = ("models=softmax", "rows=200", "test_rows=50", "epochs=1", "backends=local,horovod")
    code, text = sweeps.run("--quick", *small, "--no-mlflow")
    assert code == 0, text
    assert "1 of 1 runs to do, about " in text and "Left out: horovod: it is not" in text
    (record,) = sweeps.records
    assert record.case.backend == "local" and record.finished and not record.explanation
    page = (sweeps.output / "index.html").read_text()
    assert "SoftMax Regression on generated" in page.split('id="findings"')[0]
    assert "Left out: horovod: it is not installed" in page


def test_a_dry_run_starts_nothing(sweeps: Sweeps) -> None:
    code, text = sweeps.run(*SWEEP, "backends=local,shuffle", "--dry-run")
    assert code == 0
    assert re.search(r"2 of 2 runs to do, about \d+", text)
    assert not sweeps.output.exists()


def test_page_of_results_alone(sweeps: Sweeps) -> None:
    from tests.unit.characterize_records import made

    code, text = sweeps.run("--page-only")
    assert (code, "has no results" in text) == (2, True)
    ResultsFile(sweeps.output / "results.jsonl").append(made("gloo", 1, 2.0))
    (sweeps.output / "sweep.json").write_text(json.dumps({"name": "mine", "left_out": []}))
    code, text = sweeps.run("--page-only")
    assert code == 0, text
    assert "mine" in (sweeps.output / "index.html").read_text()
