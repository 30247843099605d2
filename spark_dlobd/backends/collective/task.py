"""What is the collectives' own in a barrier task. Runs on each worker."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from typing import Any

from spark_dlobd.backends.allreduce.task import RankTask
from spark_dlobd.errors import ResourceError
from spark_dlobd.processes.environment import tensorflow_environment
from spark_dlobd.processes.placement import place_ranks


class CollectiveTask(RankTask):
    """Tells every rank where the others listen."""

    def environment(self) -> dict[str, str]:
        """Environment of the rank's process."""
        config = self.task.config
        threads = config.threads_per_rank or self.task.cores_per_task
        return {
            **tensorflow_environment(threads, self.gpus),
            # An average waits for other ranks: with one thread it blocks what they wait for.
            "TF_NUM_INTEROP_THREADS": str(max(threads, 2)),
            **dict(config.environment),
        }

    def communicator(self, stack: ExitStack) -> dict[str, Any]:
        """Meet all tasks, and return MPI's environment or the addresses of all ranks."""
        from spark_dlobd.processes.network import address_of

        config, supervisor = self.task.config, self.supervisor
        if config.network_interface is not None:
            supervisor.address = address_of(config.network_interface)
        if config.transport == "mpi":
            from spark_dlobd.backends.allreduce.mpi.meeting import mpi_environment

            return {"environment": mpi_environment(self, config.mpi_options, stack)}
        with hold_port(config.port_range) as held:
            own = {"address": supervisor.address, "port": held.getsockname()[1]}
            gathered = [json.loads(text) for text in self.gather(json.dumps(own))]
        places = place_ranks([other["address"] for other in gathered])
        supervisor.place(places[self.partition].rank)
        peers = {
            place.rank: f"{other['address']}:{other['port']}"
            for place, other in zip(places, gathered, strict=True)
        }
        return {"peers": [peers[rank] for rank in sorted(peers)]}


def hold_port(port_range: tuple[int, int] | None) -> socket.socket:
    """Take a port on which nobody listens, so that no other task of this host takes it too.

    The rank's server needs it free: it is let go when all have met. Where another program is
    faster then, the gang starts once more.

    Parameters
    ----------
    port_range : tuple of (int, int) or None
        First and last port to choose from; None lets the system choose.

    Raises
    ------
    ResourceError
        If all of the range are taken.
    """
    first, last = port_range or (0, 0)
    for port in range(first, last + 1):
        held = socket.socket()
        try:
            held.bind(("", port))
        except OSError:
            held.close()
            continue
        return held
    raise ResourceError(
        f"No port is free for a rank on {socket.gethostname()}: tried {first} to {last}. Widen "
        "port_range or end what listens there."
    )
