"""What can be refused before the first case runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from spark_dlobd.characterize.case import Case
from spark_dlobd.characterize.hosts import check_machine
from spark_dlobd.errors import ConfigurationError, MissingDependencyError, ResourceError
from spark_dlobd.spark import cores_of_master


def check_cases(
    cases: Sequence[Case], master: str | None = None, cache_dir: str | None = None
) -> None:
    """Raise if a case cannot run on this machine or master. Runs on the driver.

    Parameters
    ----------
    cases : sequence of Case
        Those that are to run.
    master : str, optional
        The master URL that the user gave.
    cache_dir : str, optional
        Where training rows are materialized.

    Raises
    ------
    ResourceError
        If a case has more workers than ``local[N]`` has slots, or emulated hosts are
        asked for without root.
    MissingDependencyError
        If Horovod is not installed, or a program that emulated hosts need.
    ConfigurationError
        If there are emulated hosts and a master of the user, or a cluster without
        `cache_dir`.
    """
    emulated = [case for case in cases if case.link_mbit is not None]
    if emulated and master is not None:
        raise ConfigurationError(
            "link_mbit is the rate between hosts that are emulated here, with a master of their "
            f"own, so it cannot be used with --master {master}. Leave one of them out."
        )
    if emulated:
        check_machine()
    if master and not master.startswith("local") and cache_dir is None:
        raise ConfigurationError(
            f"The workers of {master} are on other machines. Give --cache-dir with the URL of a "
            "folder that all of them and this machine reach, e.g. hdfs:///tmp/rows."
        )
    _check_slots(cases, master)
    needs_horovod = any(case.backend == "horovod" for case in cases)
    if needs_horovod and importlib.util.find_spec("horovod") is None:
        raise MissingDependencyError(
            "The sweep has backend 'horovod', but Horovod is not installed. Install its wheel "
            "(docs/guide.md says how), or leave the backend out."
        )


def _check_slots(cases: Sequence[Case], master: str | None) -> None:
    offered = cores_of_master(master) if master else None
    if offered is None:
        return  # made to fit, or a cluster, whose slots the case's own process counts
    short = [case for case in cases if case.workers > offered and case.backend != "local"]
    if short:
        most = max(case.workers for case in short)
        raise ResourceError(
            f"{len(short)} cases of the sweep need up to {most} slots at the same time, but "
            f"{master} offers {offered}. Ask for workers up to {offered}, or give a master with "
            "more; without --master each case gets the slots it needs."
        )
