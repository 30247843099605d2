"""What runs in each barrier task of a gang of ranks. Runs on each worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spark_dlobd.processes.channel import ChannelAddress, EventClient
from spark_dlobd.processes.child import ChildProcess
from spark_dlobd.processes.events import Met, Result
from spark_dlobd.processes.supervision import Supervisor
from spark_dlobd.processes.versions import check_versions

if TYPE_CHECKING:
    from pyspark import BarrierTaskContext


@dataclass(frozen=True)
class GangTask:
    """What every task of a gang needs.

    Attributes
    ----------
    run_id : str
        Names the gang.
    channel : ChannelAddress
        Where events go.
    payload : bytes
        The job, pickled; only the rank's own process opens it.
    config : BackendConfig
        Options of the backend.
    cores_per_task : int
        Threads of a rank.
    versions : dict of str to str
        What the driver has, as `driver_versions` says.
    program : str
        Module that a rank runs.
    """

    run_id: str
    channel: ChannelAddress
    payload: bytes
    config: Any
    cores_per_task: int
    versions: dict[str, str]
    program: str


class RankTask:
    """Starts the rank's process, introduces it to its peers and listens to it."""

    def __init__(self, task: GangTask, context: BarrierTaskContext, driver: EventClient) -> None:
        self.task = task
        self.partition = context.partitionId()
        self.supervisor = Supervisor(
            driver, self.partition, task.config, stacks_after_s=task.config.stall_timeout_s / 2
        )
        resources = context.resources()
        self.gpus = list(resources["gpu"].addresses) if "gpu" in resources else None

    def environment(self) -> dict[str, str]:
        """Environment of the rank's process, before it knows its peers."""
        raise NotImplementedError

    def communicator(self, stack: ExitStack) -> dict[str, Any]:
        """Meet all tasks, and return what lets this rank find its peers.

        Parameters
        ----------
        stack : ExitStack
            Closed when the fit ends.
        """
        raise NotImplementedError

    def all_met(self, stack: ExitStack) -> None:
        """Close what only served to find the others."""

    def gather(self, text: str) -> list[str]:
        """Tell the other tasks something, and hear theirs."""
        return self.supervisor.driver.gather(text, self.task.config.start_timeout_s)

    def train(self) -> bytes:
        """Train to the end and return the archive (empty but on rank 0)."""
        supervisor = self.supervisor
        check_versions(self.task.versions)
        with ChildProcess(self.task.program, self.environment(), supervisor.log) as process:
            process.send({}, self.task.payload)
            with ExitStack() as stack:
                communicator = self.communicator(stack)
                process.send({**communicator, "rank": supervisor.rank})
                supervisor.listen(process, "", Met)
                self.all_met(stack)
                supervisor.driver.tell(Met())
                result, archive = supervisor.listen(process, "", Result)
        if supervisor.rank == 0:
            supervisor.driver.tell(result)
        return archive


def run_task(kind: type[RankTask], task: GangTask, _: Iterable[Any]) -> Iterator[bytes]:
    """Train one rank in a child process. Runs on each worker.

    Yields
    ------
    bytes
        The trained model in chunks, from the task of rank 0.
    """
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    with EventClient(task.channel, context.partitionId()) as driver:
        rank = kind(task, context, driver)
        yield from rank.supervisor.run(rank.train)
