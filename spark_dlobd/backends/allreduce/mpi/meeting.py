"""How the tasks of a gang let MPI join their ranks. Runs on each worker."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

from spark_dlobd.backends.allreduce.mpi.launch import MpiGang
from spark_dlobd.processes.placement import place_ranks

if TYPE_CHECKING:
    from spark_dlobd.backends.allreduce.mpi.options import MpiOptions
    from spark_dlobd.backends.allreduce.task import RankTask


def mpi_environment(task: RankTask, options: MpiOptions, stack: ExitStack) -> dict[str, str]:
    """Meet all tasks and start MPI; returns the environment in which a rank finds it.

    Parameters
    ----------
    task : RankTask
        The task of this rank.
    options : MpiOptions
        Transport and limits.
    stack : ExitStack
        Closed when the fit ends; MPI runs until then.
    """
    supervisor = task.supervisor
    prefix = f"spark-dlobd-{task.task.run_id}"
    mpi = stack.enter_context(MpiGang(options, prefix, task.partition, supervisor.log))
    gathered = [json.loads(text) for text in task.gather(json.dumps(supervisor.address))]
    places = place_ranks(gathered)
    supervisor.place(places[task.partition].rank)
    supervisor.enter("start MPI")
    return mpi.environment(places, task.gather)
