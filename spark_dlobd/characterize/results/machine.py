"""Where a case ran, told honestly."""

from __future__ import annotations

import re
from typing import Any

from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.processes.machine import cpu_name, gpu_names, system_facts
from spark_dlobd.processes.probes import ProbeError


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
    return {"cpu": cpu_name(), "gpus": _gpus(), "hosts": hosts(case, master), **system_facts()}


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


def _gpus() -> list[str]:
    try:
        return gpu_names() or ["none"]
    except ProbeError:
        return ["none"]
