"""What this machine has of what the package needs. Runs on the driver."""

from __future__ import annotations

from spark_dlobd.doctor.finding import Finding
from spark_dlobd.doctor.packages import check_packages
from spark_dlobd.doctor.system import (
    check_gpus,
    check_horovod,
    check_java,
    check_master,
    check_mpirun,
    check_nccl,
    check_ucx,
)

__all__ = ["Finding", "diagnose"]


def diagnose(master: str | None = None, timeout_s: float = 120.0) -> list[Finding]:
    """Check packages, programs and devices, and with `master` also Spark.

    Parameters
    ----------
    master : str, optional
        A Spark master URL; starts a session on it when given.
    timeout_s : float, default 120
        Longest wait for Horovod, UCX and Spark, each.

    Returns
    -------
    list of Finding
        In the order in which they are shown.
    """
    findings = [
        *check_packages(),
        check_java(),
        check_horovod(timeout_s),
        check_mpirun(),
        check_ucx(timeout_s),
        check_nccl(),
        check_gpus(),
    ]
    if master is not None:
        findings += check_master(master, timeout_s)
    return findings
