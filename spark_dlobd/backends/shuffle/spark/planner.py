"""Describes jobs to Spark, the next one while this one runs. Runs on the driver."""

from __future__ import annotations

import functools
from concurrent.futures import Future, ThreadPoolExecutor

from spark_dlobd.backends.shuffle.spark.exchange import Chain, Exchange
from spark_dlobd.backends.shuffle.stages.gradient import gradient_stage
from spark_dlobd.backends.shuffle.stages.task import ShuffleTask
from spark_dlobd.backends.shuffle.stages.update import norm_stage, update_stage


class Planner:
    """Chains of stages for tasks.

    py4j takes 10 ms for the two stages of a step: a thread does that, and deletes the
    shuffle files of finished jobs.

    Parameters
    ----------
    exchange : Exchange
        Where the stages run.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spark-dlobd-planner")
        self._prepared: tuple[ShuffleTask, Future[Chain]] | None = None

    def chain(self, task: ShuffleTask) -> Chain:
        """Return a chain that has not run yet."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None and prepared[0] == task:
            return prepared[1].result()
        return build_chain(self._exchange, task)

    def prepare(self, task: ShuffleTask) -> None:
        """Begin with a chain that will probably be wanted."""
        self._prepared = (task, self._thread.submit(build_chain, self._exchange, task))

    def remove(self, chain: Chain) -> None:
        """Delete the shuffle files of a chain soon."""
        self._thread.submit(chain.remove_shuffles)

    def close(self) -> None:
        """Finish what was begun."""
        self._thread.shutdown(wait=True)


def build_chain(exchange: Exchange, task: ShuffleTask) -> Chain:
    """Gradient and update stages of all steps of a job."""
    gradient = exchange.function(functools.partial(gradient_stage, task))
    norm = None
    if task.clipnorm is not None:
        norm = exchange.function(functools.partial(norm_stage, task))
    update = exchange.function(functools.partial(update_stage, task, False))
    last = exchange.function(functools.partial(update_stage, task, True))
    stages = []
    for step in range(task.first_step, task.last_step, task.sync_every):
        stages.append((f"gradients of step {step}", gradient))
        if norm is not None:
            stages.append((f"norms of step {step}", norm))
        ends = step + task.sync_every >= task.last_step
        stages.append((f"update of step {step}", last if ends else update))
    return exchange.chain(stages)
