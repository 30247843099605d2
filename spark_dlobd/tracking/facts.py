"""Facts about the machine and the installed versions that a run is tagged with."""

from __future__ import annotations

import os
import platform
from importlib import metadata

_DISTRIBUTIONS = {
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


def installed(package: str) -> tuple[str, str] | None:
    """Name and version of the distribution that provides `package`, if any.

    ``tensorflow`` for example comes from ``tensorflow`` or ``tensorflow-cpu``.
    Nothing is imported.
    """
    for name in _DISTRIBUTIONS.get(package, (package,)):
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def requirements(*packages: str) -> list[str]:
    """Pinned pip requirements for those of `packages` that are installed."""
    found = [installed(package) for package in packages]
    return [f"{name}=={version}" for name, version in filter(None, found)]


def system_facts() -> dict[str, str | int | float]:
    """Versions and size of the machine this runs on. Runs on the driver.

    Returns
    -------
    dict
        ``python``, ``os``, ``cores`` (usable by this process), ``memory_gib``,
        and the version of each installed package of the stack (``pyspark``,
        ``tensorflow``, ``keras``, ``horovod``, ``petastorm``, ``mlflow``, ...).
        A package that is not installed has no entry; none is imported.

    Examples
    --------
    >>> sorted(system_facts())[0]
    'cores'
    """
    facts: dict[str, str | int | float] = {
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": _cores(),
    }
    memory = _memory_gib()
    if memory is not None:
        facts["memory_gib"] = memory
    for package in _DISTRIBUTIONS:
        found = installed(package)
        if found is not None:
            facts[package] = found[1]
    return facts


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return round(size / 2**30, 1)
