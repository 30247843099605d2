"""The Python that Spark's workers run: made the driver's where nobody chose one, else compared.

Runs on the driver, but for `run_checked`.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_dlobd import errors
from spark_dlobd.errors import ConfigurationError, DLError, WorkerError, WorkersDisagreeError
from spark_dlobd.processes.versions import version_of
from spark_dlobd.spark import WorkerPython, set_worker_python, worker_python

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

VARIABLE = "PYSPARK_PYTHON"
NEEDED = ("spark_dlobd", "numpy", "pandas", "pyarrow", "tensorflow", "keras")
_DISTRIBUTION = "spark-dlobd"
_SPARK_DEFAULT = "python3"
_PROBE_TIMEOUT_S = 60.0

# An expression of the standard library alone: a worker that lacks this package can evaluate it.
FACTS = (
    "(lambda sys, util: {'executable': sys.executable, "
    "'python': '%d.%d' % sys.version_info[:2], "
    f"'missing': [name for name in {NEEDED!r} if util.find_spec(name) is None], "
    "'version': None if sys.version_info < (3, 8) else next((found.version for found in "
    f"__import__('importlib.metadata').metadata.distributions(name={_DISTRIBUTION!r})), None)"
    "})(__import__('sys'), __import__('importlib.util').util)"
)

_MISSING = re.compile(r"(?:ModuleNotFound|Import)Error: (No module named '([\w.]+)')")
_TOO_OLD = re.compile(r"\[(?:PACKAGE_NOT_INSTALLED|UNSUPPORTED_PACKAGE_VERSION)\] ([^\n]+)")
_OTHER_MINOR = re.compile(r"different version: (\d+\.\d+) than that in driver: (\d+\.\d+)")
_NOT_THERE = re.compile(r'Cannot run program "([^"]*py[^"]*)": ([^\n]+)')
_DIED = re.compile(r"Error from python worker:\s+([^\n]+)")
_OTHER_CODE = re.compile(
    r"AttributeError: Can't get attribute '(\w+)' on <module '(spark_dlobd[^']*)'"
)
_RAISED = re.compile(r"\[USER_RAISED_EXCEPTION\] (\w+): (.*?)(?: SQLSTATE: \w+|$)", re.DOTALL)
_RAISED_IN_PYTHON = re.compile(
    r"^spark_dlobd\.errors\.(\w+): (.*?)(?=\n\s*\n|\n\tat |\Z)", re.DOTALL | re.MULTILINE
)

logger = logging.getLogger("spark_dlobd")


@dataclass(frozen=True)
class Choice:
    """A Python for workers, and what chose it."""

    python: str
    chosen_by: str


def prepare_workers(spark: SparkSession) -> None:
    """Make sure that workers on this machine can run what is sent to them.

    On a local master on which nothing names a Python for workers, they get the driver's:
    Spark would take the first ``python3`` of the PATH. That holds for what the session sends
    to workers from now on, functions of the user as well. What the user named stays, and is
    compared. No Spark job is started; a cluster's workers show when they run.

    Parameters
    ----------
    spark : SparkSession
        A classic session.

    Raises
    ------
    ConfigurationError
        If the Python that was named cannot run this package.
    """
    found = worker_python(spark)
    if not found.is_local or not sys.executable:
        return
    if found.for_rdds == _SPARK_DEFAULT and VARIABLE not in os.environ:
        wanted = found.named or sys.executable
        if not is_drivers(_SPARK_DEFAULT):
            set_worker_python(spark, wanted)
            logger.info("Python workers of this session run %s from now on", wanted)
            found = worker_python(spark)
    choices = [Choice(found.for_rdds, _chosen_by(found))]
    if found.sql_setting:
        choices.append(Choice(found.for_sql, found.sql_setting))
    for choice in choices:
        if not is_drivers(choice.python):
            require_usable(choice, _added_paths())


def _chosen_by(found: WorkerPython) -> str:
    return "spark.pyspark.python" if found.for_rdds == found.named else VARIABLE


def is_drivers(python: str) -> bool:
    """Whether this is the driver's interpreter, of the same environment.

    Examples
    --------
    >>> is_drivers(sys.executable), is_drivers("/nowhere/python")
    (True, False)
    """
    found = shutil.which(python)
    if found is None:
        return False
    # Interpreters of two virtual environments are often links to one file.
    own, other = Path(sys.executable), Path(found)
    same_folder = own.parent.resolve() == other.parent.resolve()
    return same_folder and own.resolve() == other.resolve()


_usable: set[tuple[str, tuple[str, ...]]] = set()


def require_usable(choice: Choice, paths: Iterable[str] = ()) -> None:
    """Raise unless an interpreter of this machine can run this package. No Spark job.

    Parameters
    ----------
    choice : Choice
        The interpreter, a path or a name on the PATH.
    paths : iterable of str, default ()
        Where else its workers find modules.

    Raises
    ------
    ConfigurationError
        With both interpreters and the setting that names the workers' one.
    """
    from spark_dlobd.processes import probes

    key = (choice.python, tuple(paths))
    if is_drivers(choice.python) or key in _usable:
        return
    code = f"import json; print(json.dumps({FACTS}))"
    try:
        facts = probes.ask(code, (), _PROBE_TIMEOUT_S, choice.python, key[1])
    except probes.ProbeError as error:
        raise ConfigurationError(_compared(choice, f"It does not run: {error}.")) from error
    if problem := problem_of(facts):
        raise ConfigurationError(_compared(choice, problem))
    _usable.add(key)


def problem_of(facts: dict[str, Any]) -> str:
    """What workers with these `FACTS` lack; empty if nothing. Pure but for the driver's own."""
    own = "{}.{}".format(*sys.version_info[:2])
    version = installed_version()
    if facts["python"] != own:
        return f"It is Python {facts['python']}: Spark needs the same minor version on both sides."
    if facts["missing"]:
        return f"It has no {', no '.join(facts['missing'])}."
    if version is not None and facts["version"] not in (None, version):
        return f"It has spark_dlobd {facts['version']}, the driver has {version}."
    return ""


def _compared(choice: Choice, problem: str) -> str:
    source = choice.chosen_by
    if choice == Choice(_SPARK_DEFAULT, VARIABLE):
        source = f"{VARIABLE} as it was when the session started"
    return (
        f"Python workers of this session run {choice.python!r} (chosen by {source}), "
        f"the driver runs {sys.executable!r} (Python {'{}.{}'.format(*sys.version_info[:2])}). "
        f"{problem} Start the session anew with {choice.chosen_by}={sys.executable}, or without "
        "it: on a local master workers then run the driver's Python."
    )


def _added_paths() -> tuple[str, ...]:
    """Where workers find what came with `addPyFile` or ``--py-files``."""
    from pyspark import SparkFiles

    root = Path(SparkFiles.getRootDirectory())
    archives = [path for path in sorted(root.glob("*")) if path.suffix in (".zip", ".egg")]
    return tuple(map(str, (root, *archives)))


@cache
def installed_version() -> str | None:
    """Version of this package; None where it is not installed, as from `addPyFile`."""
    return version_of(_DISTRIBUTION)


def run_checked(
    batches: Iterator[Any], function: Callable[[Iterator[Any]], Iterator[Any]], version: str | None
) -> Iterator[Any]:
    """Runs on each worker. `function` of the batches, if this is the driver's version.

    Raises
    ------
    WorkersDisagreeError
        If this package has another version here than on the driver.
    """
    require_version(version)
    yield from function(batches)


def require_version(version: str | None) -> None:
    """Runs on each worker. Raise unless this package has `version` here, where both are known."""
    here = installed_version()
    if None not in (here, version) and here != version:
        raise WorkersDisagreeError(
            f"Python workers have spark_dlobd {here} ({sys.executable}), the driver has {version}. "
            "Install the same version on all executors."
        )


def known_error(error: BaseException, context: SparkContext | None = None) -> DLError | None:
    """One of our errors for what an action of Spark raised, if a worker's Python explains it.

    Parameters
    ----------
    error : BaseException
        What Spark raised.
    context : SparkContext, optional
        Says which Python workers run.

    Returns
    -------
    DLError or None
        The error that a worker raised, where it was one of ours; a `ConfigurationError` where
        its interpreter or its packages are the cause; None if it is anything else, or one of
        ours already.
    """
    if isinstance(error, DLError):
        return None
    text = str(error)
    for pattern in (_RAISED, _RAISED_IN_PYTHON):
        if (found := pattern.search(text)) and (kind := _simple_error(found[1])):
            return kind(found[2].strip())
    problem = worker_problem(text)
    if problem is None:
        return None
    ran = ""
    if context is not None:
        default = context.pythonExec == _SPARK_DEFAULT and VARIABLE not in os.environ
        unset = f", because {VARIABLE} is not set" if default else ""
        ran = f" Workers run {context.pythonExec!r}{unset}; the driver runs {sys.executable!r}."
    return ConfigurationError(f"{problem}{ran}")


def _simple_error(name: str) -> type[DLError] | None:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, DLError) and not issubclass(kind, WorkerError):
        return kind
    return None


def worker_problem(text: str) -> str | None:
    """What is wrong with the workers' Python and how to mend it, from Spark's text. Pure.

    Examples
    --------
    >>> print(worker_problem("ModuleNotFoundError: No module named 'pandas'"))
    Python workers lack a package: No module named 'pandas'. Install on all executors ...
    >>> worker_problem("ModuleNotFoundError: No module named 'of_the_user'") is None
    True
    """
    same = (
        f"Install on all executors what the driver has, and let {VARIABLE} name that Python "
        "before the session starts."
    )
    if (found := _MISSING.search(text)) and found[2].split(".")[0] in (*NEEDED, "pyspark"):
        if found[2].startswith("spark_dlobd."):
            return f"Python workers have another version of spark_dlobd: {found[1]}. {same}"
        return f"Python workers lack a package: {found[1]}. {same}"
    if found := _OTHER_CODE.search(text):
        return f"Python workers have another version of spark_dlobd: no {found[1]!r} in it. {same}"
    if found := _TOO_OLD.search(text):
        return f"Python workers lack a package: {found[1].strip()} {same}"
    if found := _OTHER_MINOR.search(text):
        return (
            f"Python workers run Python {found[1]}, the driver runs Python {found[2]}: Spark needs "
            f"the same minor version on both sides. {same}"
        )
    if found := _NOT_THERE.search(text):
        return f"Executors cannot start the Python {found[1]!r}: {found[2].strip()}. {same}"
    if found := _DIED.search(text):
        return f"The Python of the workers does not start: {found[1].strip()}. {same}"
    return None
