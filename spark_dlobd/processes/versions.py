"""Which versions of packages driver and workers have, and where they must be alike."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spark_dlobd.errors import WorkersDisagreeError

MISSING = "not installed"
ALIKE = ("keras", "numpy", "petastorm", "pyarrow")
"""Distributions whose versions have to be equal on all workers."""
# Objects of numpy and networks of Keras travel, and both change their form between minors.
_TRAVEL = ("numpy", "keras")
_INSTEAD = {
    "petastorm": " or set reader='pyarrow'",
    "mpi4py": " or use CollectiveConfig(transport='ring')",
}
# Where petastorm breaks: it names classes that newer ones do not have.
_PETASTORM_BELOW = {"pyarrow": 15, "numpy": 2}

STACK = {
    "spark_dlobd": ("spark-dlobd", "spark_dlobd"),
    "pyspark": ("pyspark", "pyspark-client", "pyspark-connect"),
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-gpu"),
    "keras": ("keras",),
    "horovod": ("horovod",),
    "petastorm": ("petastorm",),
    "pyarrow": ("pyarrow",),
    "numpy": ("numpy",),
    "pandas": ("pandas",),
    "mlflow": ("mlflow", "mlflow-skinny"),
}
"""Packages of the stack and the distributions that may provide each."""


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, or None; imports nothing."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed(package: str) -> tuple[str, str] | None:
    """Name and version of the distribution that provides `package`, if any.

    ``tensorflow`` for example comes from ``tensorflow`` or ``tensorflow-cpu``.
    Nothing is imported.
    """
    for name in STACK.get(package, (package,)):
        if found := version_of(name):
            return name, found
    return None


def requirements(*packages: str) -> list[str]:
    """Pinned pip requirements for those of `packages` that are installed."""
    found = [installed(package) for package in packages]
    return [f"{name}=={version}" for name, version in filter(None, found)]


def versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of distributions, as they are installed here; imports nothing.

    Examples
    --------
    >>> versions(["no-such-package"])["no-such-package"]
    'not installed'
    """
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def driver_versions(reader: str, *needed: str) -> dict[str, str]:
    """What workers have to compare with theirs before they open what the driver pickled.

    Parameters
    ----------
    reader : {"petastorm", "pyarrow"}
        The library through which they are to read rows.
    *needed : str
        Further distributions that have to be there, of whatever version.
    """
    names = (*_TRAVEL, *(("petastorm",) if reader == "petastorm" else ()), *needed)
    return {name: _version(name) for name in names}


def check_versions(driver: Mapping[str, str]) -> None:
    """Compare with `driver_versions`. Runs on each worker.

    Raises
    ------
    WorkersDisagreeError
        A package is missing here, or is of another minor version.
    """
    for name, theirs in driver.items():
        ours = _version(name)
        if ours == MISSING or (name in _TRAVEL and _minor(ours) != _minor(theirs)):
            advice = _INSTEAD.get(name, "")
            raise WorkersDisagreeError(
                f"{name} is {ours} on {socket.gethostname()}, the driver has {theirs}. Give the "
                f"driver and all executors the same environment{advice}; spark-dlobd doctor "
                "compares them."
            )


def check_agreement(told: Sequence[Mapping[str, Any]], who: str) -> None:
    """Compare what every worker says of itself.

    Parameters
    ----------
    told : sequence of mapping
        Facts by worker, in their order; all say the same names.
    who : {"rank", "task"}
        What a worker is called.

    Raises
    ------
    WorkersDisagreeError
        Naming the first fact that differs with its value everywhere.
    """
    for name in told[0]:
        values = [other.get(name) for other in told]
        if any(value != values[0] for value in values):
            raise WorkersDisagreeError(
                f"{name} differs between {who}s: "
                + ", ".join(f"{who} {index} has {value}" for index, value in enumerate(values))
                + ". Give every executor the same environment."
            )


def petastorm_problem() -> str | None:
    """Say why petastorm cannot read here; None if it can. Imports nothing."""
    if importlib.util.find_spec("petastorm") is None:
        return "petastorm is not installed"
    for name, limit in _PETASTORM_BELOW.items():
        found = _version(name)
        if found != MISSING and int(found.split(".")[0]) >= limit:
            return f"petastorm needs {name} below {limit}, this is {found}"
    return None


def _minor(found: str) -> list[str]:
    return found.split(".")[:2]


def _version(name: str) -> str:
    return version_of(name) or MISSING
