"""What can be refused before the first case runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Sequence
from dataclasses import replace

from spark_dlobd.characterize.run.hosts import check_machine
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.characterize.sweep.spec import Sweep
from spark_dlobd.errors import ConfigurationError, MissingDependencyError, ResourceError
from spark_dlobd.processes.mpirun import find_mpirun, mpi_problem
from spark_dlobd.spark import cores_of_master


def available(sweep: Sweep, done: Collection[str] = ()) -> Sweep:
    """Leave out what this machine has not installed. Runs on the driver.

    Parameters
    ----------
    sweep : Sweep
        What was asked for.
    done : collection of str
        Ids of cases that have a result: they stay, whatever they would need to run.

    Returns
    -------
    Sweep
        With what is left; `left_out` says of the rest what is missing and what brings it.

    Raises
    ------
    MissingDependencyError
        If nothing is left.
    """
    lacking = {case.id: why for case in sweep.cases if (why := _lacks(case)) is not None}
    kept = tuple(case for case in sweep.cases if case.id in done or case.id not in lacking)
    missing = {lacking[case.id]: None for case in sweep.cases if case not in kept}
    if not kept:
        raise MissingDependencyError(
            f"Nothing of this sweep can run here: {'; '.join(missing)}. Or name other backends, "
            "for example backends=local,shuffle, which need nothing more."
        )
    return replace(sweep, cases=kept, left_out=(*missing, *sweep.left_out))


def _lacks(case: Case) -> str | None:
    """What a case needs that is not installed, and what brings it."""
    if case.backend_param.get("transport") == "mpi":
        problem = mpi_problem()
        return None if problem is None else f"{case.transport}: {problem.rstrip('.')}"
    if case.backend != "horovod":
        return None
    if importlib.util.find_spec("horovod") is None:
        return "horovod: it is not installed, `spark-dlobd build-horovod` builds and installs it"
    if case.backend_param["controller"] == "mpi":
        try:
            find_mpirun()
        except MissingDependencyError as error:
            return f"{case.transport} of horovod: {str(error).rstrip('.')}"
    return None


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
        If a program is missing that emulated hosts need.
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
