"""The machine that this process runs on: cores, memory, CPU, GPUs, versions."""

from __future__ import annotations

import os
import platform
import re
from functools import lru_cache
from pathlib import Path

import psutil

from spark_dlobd.processes.probes import run_program
from spark_dlobd.processes.versions import STACK, installed

_CPU_INFO = Path("/proc/cpuinfo")
_GPU_TIMEOUT_S = 10.0


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
    packages = {package: found[1] for package in STACK if (found := installed(package))}
    return {
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": usable_cores(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        **packages,
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory of the machine."""
    return int(psutil.virtual_memory().total)


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """Model name of the CPU as the system tells it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", _CPU_INFO.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def gpu_names() -> list[str]:
    """Names of the GPUs that NVIDIA's driver lists.

    Raises
    ------
    ProbeError
        If ``nvidia-smi`` is not there, fails or does not answer.
    """
    text = run_program(["nvidia-smi", "-L"], _GPU_TIMEOUT_S)
    return re.findall(r"^GPU \d+: (.*?) \(UUID", text, flags=re.MULTILINE)
