"""What is Horovod's own in a barrier task. Runs on each worker."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from spark_dlobd.backends.allreduce.task import RankTask
from spark_dlobd.backends.horovod.gloo import RendezvousServer, gloo_environment
from spark_dlobd.processes.environment import tensorflow_environment
from spark_dlobd.processes.placement import place_ranks

if TYPE_CHECKING:
    from spark_dlobd.backends.horovod.config import HorovodConfig


def rank_environment(cores: int, gpus: list[str] | None, config: HorovodConfig) -> dict[str, str]:
    """Environment of a rank's process before it knows its peers. Pure."""
    warn_s = min(60, config.stall_timeout_s / 2, config.progress_timeout_s / 2)
    environment = {
        **tensorflow_environment(config.threads_per_rank or cores, gpus),
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(max(1, int(warn_s))),
        # the driver watches for stalls: Horovod's own inspector knows neither a first step
        # that compiles nor a long validation, and misses operations that it has cached
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(int(config.progress_timeout_s)),
        "HOROVOD_CYCLE_TIME": str(config.cycle_time_ms),
    }
    if config.fusion_threshold_bytes is not None:
        environment["HOROVOD_FUSION_THRESHOLD"] = str(config.fusion_threshold_bytes)
    if config.timeline_path is not None:
        environment["HOROVOD_TIMELINE"] = config.timeline_path
    return environment | dict(config.environment)


class HorovodTask(RankTask):
    """Brings Horovod's ranks together, over Gloo's key-value store or MPI."""

    def environment(self) -> dict[str, str]:
        """Environment of the rank's process."""
        return rank_environment(self.task.cores_per_task, self.gpus, self.task.config)

    def communicator(self, stack: ExitStack) -> dict[str, Any]:
        """Meet all tasks, and return the environment in which Horovod finds the others."""
        return {"environment": self._environment_of_all(stack)}

    def all_met(self, stack: ExitStack) -> None:
        """Close Gloo's open key-value store."""
        if self.task.config.controller == "gloo":
            stack.close()

    def _environment_of_all(self, stack: ExitStack) -> dict[str, str]:
        from spark_dlobd.processes.network import address_of, interface_of

        config, supervisor = self.task.config, self.supervisor
        if config.network_interface is not None:
            supervisor.address = address_of(config.network_interface)
        if config.controller == "mpi":
            from spark_dlobd.backends.allreduce.mpi.meeting import mpi_environment

            names = ("HOROVOD_CONTROLLER", "HOROVOD_CPU_OPERATIONS")
            own = mpi_environment(self, config.mpi_options, stack)
            return own | dict.fromkeys(names, "mpi")
        server = None
        announced: dict[str, Any] = {"address": supervisor.address}
        if self.partition == 0:
            server = stack.enter_context(RendezvousServer(supervisor.address))
            announced["rendezvous"] = server.address
        gathered = [json.loads(text) for text in self.gather(json.dumps(announced))]
        places = place_ranks([other["address"] for other in gathered])
        place = places[self.partition]
        supervisor.place(place.rank)
        if server is not None:
            server.expect(places)
        interface = config.network_interface or interface_of(supervisor.address)
        return gloo_environment(place, gathered[0]["rendezvous"], interface, config.gloo_timeout_s)
