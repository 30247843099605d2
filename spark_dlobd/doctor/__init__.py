"""What this machine, and a cluster, have of what the package needs. Runs on the driver."""

from __future__ import annotations

from collections.abc import Mapping

from spark_dlobd.doctor.cluster import check_imports, check_master
from spark_dlobd.doctor.finding import Finding, Verdict
from spark_dlobd.doctor.packages import check_packages
from spark_dlobd.doctor.system import (
    check_gpus,
    check_horovod,
    check_java,
    check_mpirun,
    check_nccl,
    check_ucx,
    check_worker_python,
)
from spark_dlobd.doctor.verdict import verdicts
from spark_dlobd.processes import probes
from spark_dlobd.processes.interpreter_facts import Facts, wanted_modules

__all__ = ["Finding", "Verdict", "diagnose", "verdicts"]


def diagnose(
    master: str | None = None,
    timeout_s: float = 120.0,
    conf: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Check packages, programs and devices, and with `master` also every executor.

    Parameters
    ----------
    master : str, optional
        A Spark master URL; starts a session on it when given.
    timeout_s : float, default 120
        Longest wait for imports, Horovod, UCX and Spark with its executors, each.
    conf : mapping of str to str, optional
        Settings of that session.

    Returns
    -------
    list of Finding
        In the order in which they are shown.
    """
    findings = [*check_packages()]
    driver = _facts(timeout_s, findings)
    # On a cluster the executors are asked: their paths need not exist here.
    if master is None or master.startswith("local"):
        findings.append(check_worker_python())
    findings += [
        check_java(),
        check_horovod(timeout_s),
        check_mpirun(),
        check_ucx(timeout_s),
        check_nccl(),
        check_gpus(),
    ]
    if master is not None and driver is not None:
        findings += check_master(master, conf or {}, driver, timeout_s)
    return findings


def _facts(timeout_s: float, findings: list[Finding]) -> Facts | None:
    """What the driver has; also a finding."""
    try:
        facts = probes.ask_facts(wanted_modules(), timeout_s)
    except probes.ProbeError as error:
        fix = "Create the environment anew."
        findings.append(Finding("imports", f"not known: {error}", "", "failed", fix))
        return None
    findings.append(check_imports(facts))
    return facts
