"""Which Python Spark's workers run, and what is said of a wrong one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spark_dlobd.errors import ConfigurationError, DataError, WorkersDisagreeError
from spark_dlobd.processes import worker_interpreter as interpreter

MINOR = "{}.{}".format(*sys.version_info[:2])
GOOD = {"executable": "x", "python": MINOR, "missing": [], "version": None}


def session(python: str, master: str = "local[2]", sql: str | None = None, **conf: str) -> Any:
    context = SimpleNamespace(
        master=master, pythonExec=python, getConf=lambda: {"spark.pyspark.python": None, **conf}
    )
    settings = {"spark.sql.execution.pyspark.python": sql}
    return SimpleNamespace(sparkContext=context, conf=settings)


Interpreter = Callable[..., str]


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Interpreter:
    """Make an interpreter that answers as told; a `python3` is first on the PATH."""
    monkeypatch.setattr(interpreter, "_added_paths", lambda: ())
    monkeypatch.delenv("PYSPARK_PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def make(name: str, **facts: Any) -> str:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{json.dumps(GOOD | facts)}'\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_workers_get_the_drivers_python_where_none_was_chosen(python: Interpreter) -> None:
    python("python3", missing=["spark_dlobd"])
    spark = session("python3")
    interpreter.prepare_workers(spark)
    assert spark.sparkContext.pythonExec == sys.executable


def test_nothing_changes_where_the_path_leads_to_the_drivers_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "python"
    own.write_text("")
    own.chmod(0o755)
    (tmp_path / "python3").symlink_to(own)
    monkeypatch.delenv("PYSPARK_PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(own))
    spark = session("python3")
    interpreter.prepare_workers(spark)
    assert spark.sparkContext.pythonExec == "python3"


def test_a_link_to_the_same_python_from_another_environment_is_another(
    tmp_path: Path,
) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    assert not interpreter.is_drivers(str(tmp_path / "python"))


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"missing": ["spark_dlobd", "pyarrow"]}, r"It has no spark_dlobd, no pyarrow\."),
        ({"python": "2.7"}, r"It is Python 2\.7: Spark needs the same minor version"),
        ({"version": "0.0.1"}, r"It has spark_dlobd 0\.0\.1, the driver has 9\.9\."),
    ],
)
def test_a_chosen_python_is_compared_and_never_replaced(
    python: Interpreter, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], problem: str
) -> None:
    monkeypatch.setattr(interpreter, "installed_version", lambda: "9.9")
    wrong = python("wrong", **facts)
    monkeypatch.setenv("PYSPARK_PYTHON", wrong)
    spark = session(wrong)
    named = rf"run '{wrong}' \(chosen by PYSPARK_PYTHON\), the driver runs '{sys.executable}'"
    with pytest.raises(ConfigurationError, match=f"{named}.*{problem}.*PYSPARK_PYTHON="):
        interpreter.prepare_workers(spark)
    assert spark.sparkContext.pythonExec == wrong


def test_a_chosen_python_that_can_run_the_package_is_kept(
    python: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = python("other")
    monkeypatch.setenv("PYSPARK_PYTHON", other)
    spark = session(other)
    interpreter.prepare_workers(spark)
    assert spark.sparkContext.pythonExec == other


def test_a_python_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_added_paths", lambda: ())
    with pytest.raises(ConfigurationError, match=r"'/nowhere/python'.*cannot be started"):
        interpreter.prepare_workers(session("/nowhere/python"))


def test_a_variable_set_after_the_session_started_is_named(
    python: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    python("python3", missing=["pyarrow"])
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    with pytest.raises(ConfigurationError, match="PYSPARK_PYTHON as it was when the session"):
        interpreter.prepare_workers(session("python3"))


def test_settings_of_spark_are_choices_too(python: Interpreter) -> None:
    python("python3", missing=["pyarrow"])
    other = python("other")
    spark = session("python3", **{"spark.pyspark.python": other})
    interpreter.prepare_workers(spark)
    assert spark.sparkContext.pythonExec == other
    wrong = python("wrong", missing=["pandas"])
    with pytest.raises(ConfigurationError, match=r"by spark\.sql\.execution.*no pand"):
        interpreter.prepare_workers(session(sys.executable, sql=wrong))


def test_the_python_of_a_cluster_is_left_alone(python: Interpreter) -> None:
    python("python3", missing=["spark_dlobd"])
    spark = session("python3", master="spark://host:7077")
    interpreter.prepare_workers(spark)
    assert spark.sparkContext.pythonExec == "python3"


def test_facts_need_nothing_but_python() -> None:
    facts = eval(interpreter.FACTS)
    assert facts["executable"] == sys.executable
    assert interpreter.problem_of(facts) == ""


def test_another_version_on_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "installed_version", lambda: "1.0")
    interpreter.require_version("1.0")
    interpreter.require_version(None)
    with pytest.raises(WorkersDisagreeError, match=r"have spark_dlobd 1\.0 .*the driver has 2\.0"):
        list(interpreter.run_checked(iter([1]), function=iter, version="2.0"))
    assert list(interpreter.run_checked(iter([1]), function=iter, version="1.0")) == [1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "  File \"cloudpickle.py\", line 5\nModuleNotFoundError: No module named 'spark_dlobd'",
            "lack a package: No module named 'spark_dlobd'.",
        ),
        (
            "ModuleNotFoundError: No module named 'spark_dlobd.data.new'",
            "another version of spark_dlobd: No module named",
        ),
        (
            "AttributeError: Can't get attribute 'f' on <module 'spark_dlobd.data' from 'x'>",
            "another version of spark_dlobd: no 'f' in it.",
        ),
        (
            "PySparkImportError: [PACKAGE_NOT_INSTALLED] PyArrow >= 11.0.0 must be installed; "
            "however, it was not found.",
            "lack a package: PyArrow >= 11.0.0 must be installed; however, it was not found.",
        ),
        (
            "[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.10 than that in "
            "driver: 3.11, PySpark cannot run with different minor versions.",
            "run Python 3.10, the driver runs Python 3.11",
        ),
        (
            'java.io.IOException: Cannot run program "/x/python": error=2, No such file',
            "cannot start the Python '/x/python': error=2, No such file",
        ),
        (
            "Error from python worker:\n  /usr/bin/python3: No module named pyspark\nPYTHONPATH",
            "does not start: /usr/bin/python3: No module named pyspark.",
        ),
    ],
)
def test_what_spark_says_of_a_wrong_python_is_explained(text: str, said: str) -> None:
    error = interpreter.known_error(RuntimeError(text), session("python3").sparkContext)
    assert type(error) is ConfigurationError
    assert said in str(error)
    assert "PYSPARK_PYTHON" in str(error)
    assert "Workers run 'python3'" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "PythonException: ModuleNotFoundError: No module named 'of_the_user'",
        "PythonException: ValueError: bad",
        "[USER_RAISED_EXCEPTION] a check of the user failed SQLSTATE: P0001",
        "[USER_RAISED_EXCEPTION] KeyError: of the user SQLSTATE: P0001",
        'IOException: Cannot run program "chmod": error=12, Cannot allocate memory',
    ],
)
def test_errors_of_the_user_stay_as_they_are(text: str) -> None:
    assert interpreter.known_error(RuntimeError(text)) is None
    ours = DataError("ModuleNotFoundError: No module named 'pandas'")
    assert interpreter.known_error(ours) is None


def test_an_error_of_a_worker_is_the_same_on_the_driver() -> None:
    for text in (
        "[USER_RAISED_EXCEPTION] DataError: Column 'x' is bad. SQLSTATE: P0001",
        "Traceback (most recent call last):\n  File ...\n"
        "spark_dlobd.errors.DataError: Column 'x' is bad.\n\n\tat org.apache.spark.X(X.scala:1)",
    ):
        error = interpreter.known_error(RuntimeError(text))
        assert type(error) is DataError
        assert str(error) == "Column 'x' is bad."
