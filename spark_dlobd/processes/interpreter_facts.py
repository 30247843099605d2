"""What an interpreter has of what the package imports: asked alike on driver and executors."""

from __future__ import annotations

import importlib.util
import json
import signal
from dataclasses import dataclass, field
from typing import Any

from spark_dlobd.processes.versions import petastorm_problem

MODULES = (
    "spark_dlobd",
    "pyspark",
    "cloudpickle",
    "numpy",
    "pandas",
    "pyarrow",
    "tensorflow",
    "keras",
)
HOROVOD = "horovod.tensorflow"
PETASTORM = "petastorm"
NO_ANSWER = "no answer within the time limit"

# The standard library alone, so that an interpreter that has nothing else can run it. What has
# been printed is known also where an import kills the process.
CODE = """
import importlib, importlib.metadata, json, platform, signal, sys
limit_s, *modules = sys.argv[1:]
signal.alarm(int(limit_s))
def say(**facts):
    print(json.dumps(facts), flush=True)
def version(name):
    try:
        return importlib.metadata.version(name.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return ""
say(executable=sys.executable, python=platform.python_version())
for name in modules:
    say(importing=name)
    try:
        importlib.import_module(name)
    except BaseException as error:
        say(module=name, error=f"{type(error).__name__}: {error}")
    else:
        top = name.partition(".")[0]
        say(module=name, version=getattr(sys.modules[top], "__version__", "") or version(top))
"""


@dataclass(frozen=True)
class Facts:
    """What one interpreter said.

    Attributes
    ----------
    executable, python : str
        Its path and version.
    versions : dict of str to str
        Of the modules that load; empty where a module tells none.
    errors : dict of str to str
        Why the others do not load.
    """

    executable: str
    python: str
    versions: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def wanted_modules() -> tuple[str, ...]:
    """What to import; Horovod where the driver has it, petastorm where it can use it."""
    with_horovod = importlib.util.find_spec("horovod") is not None
    with_petastorm = petastorm_problem() is None
    return (
        *MODULES,
        *((PETASTORM,) if with_petastorm else ()),
        *((HOROVOD,) if with_horovod else ()),
    )


def read_facts(status: int, output: str, errors: str) -> Facts:
    """Read what `CODE` printed, also where it ended early. Pure.

    Raises
    ------
    ValueError
        If it did not even say which interpreter it is; the message is the last line.
    """
    said: dict[str, Any] = {}
    versions: dict[str, str] = {}
    failures: dict[str, str] = {}
    importing = None
    for line in output.splitlines():
        fact = _object(line)
        if "importing" in fact:
            importing = fact["importing"]
        elif "module" in fact:
            importing = None
            told, value = (failures, "error") if "error" in fact else (versions, "version")
            told[fact["module"]] = str(fact[value])
        else:
            said |= fact
    if "python" not in said:
        lines = [line.strip() for line in (errors or output).splitlines() if line.strip()]
        raise ValueError(lines[-1] if lines else f"the interpreter ended with {status}")
    if importing is not None:
        failures[importing] = f"the interpreter ended with {_name(status)} while importing it"
    return Facts(said["executable"], said["python"], versions, failures)


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}  # modules may print, too
    return found if isinstance(found, dict) else {}


def _name(status: int) -> str:
    if status == -signal.SIGALRM:
        return "the time limit"
    return f"signal {-status}" if status < 0 else f"exit status {status}"
