"""Where a case ran, told honestly."""

from __future__ import annotations

import platform
import re
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.tracking.facts import system_facts

_CPU_INFO = Path("/proc/cpuinfo")
_GPU_TIMEOUT_S = 10.0


def machine_facts(case: Case, master: str | None = None) -> dict[str, Any]:
    """Describe the machine for the record of a case. Runs on the driver.

    Parameters
    ----------
    case : Case
        Whether it has emulated hosts decides what ``hosts`` says.
    master : str, optional
        The master URL that the user gave.

    Returns
    -------
    dict
        ``cpu``, ``gpus`` and ``hosts`` besides the keys of `system_facts`. All but
        ``hosts`` are facts of the driver's machine.
    """
    return {"cpu": cpu_name(), "gpus": gpu_names(), "hosts": hosts(case, master), **system_facts()}


def hosts(case: Case, master: str | None) -> str:
    """Say on how many hosts the workers of a case are. Pure."""
    if case.link_mbit is not None:
        return (
            "emulated on this machine: network namespaces, one a worker, joined by links of a "
            "limited rate; all of them share its cores"
        )
    if master is None or master.startswith("local"):
        return "this machine alone; all workers share its cores"
    # a master URL may hold a password
    return f"the cluster of {re.sub(r'//[^/@]*@', '//', master)}; the other facts are the driver's"


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
    """Names of the GPUs that NVIDIA's driver lists, ``["none"]`` without any."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ["none"]
    names = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return names if done.returncode == 0 and names else ["none"]
