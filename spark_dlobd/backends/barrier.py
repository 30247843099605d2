"""What runs in each barrier task of a Horovod gang. Runs on each worker."""

from __future__ import annotations

import json
import os
import queue
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spark_dlobd.backends.channel import ChannelAddress, EventClient
from spark_dlobd.backends.gloo import RendezvousServer, gloo_environment
from spark_dlobd.backends.placement import Place, place_ranks
from spark_dlobd.errors import TrainingError, TrainingTimeoutError, WorkerLostError

if TYPE_CHECKING:
    from pyspark import BarrierTaskContext

    from spark_dlobd.backends.horovod import HorovodConfig
    from spark_dlobd.backends.process import RankProcess

_CHUNK_BYTES = 32 << 20

# TensorFlow allocates and frees megabytes of activations every step. glibc would map and
# unmap them each time and the kernel clear every page again: a million page faults in 150
# steps of LeNet, 40 % of the step. With these it keeps the memory for the next step.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the highest that glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


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
    config : HorovodConfig
        Options of the backend.
    cores_per_task : int
        Threads of a rank.
    """

    run_id: str
    channel: ChannelAddress
    payload: bytes
    config: HorovodConfig
    cores_per_task: int


def run_task(task: GangTask, _: Iterable[Any]) -> Iterator[bytes]:
    """Train one rank in a child process. Runs on each worker.

    Yields
    ------
    bytes
        The trained model in chunks, from the task of rank 0.
    """
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    with EventClient(task.channel, context.partitionId()) as driver:
        supervisor = Supervisor(task, context, driver)
        try:
            archive = supervisor.run()
        except Exception as error:
            driver.send(supervisor.failure(error))
            raise
    for start in range(0, len(archive), _CHUNK_BYTES):
        yield archive[start : start + _CHUNK_BYTES]


def tensorflow_environment(threads: int, gpus: list[str] | None) -> dict[str, str]:
    """Environment of a process that trains with TensorFlow. Pure but for the log level."""
    environment = {
        **KEEP_MEMORY,
        "KERAS_BACKEND": "tensorflow",
        "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
    }
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return environment


def rank_environment(cores: int, gpus: list[str] | None, config: HorovodConfig) -> dict[str, str]:
    """Environment of a rank's process before it knows its peers. Pure."""
    environment = {
        **tensorflow_environment(config.threads_per_rank or cores, gpus),
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(max(1, int(min(60, config.stall_timeout_s / 2)))),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(int(config.stall_timeout_s)),
        "HOROVOD_CYCLE_TIME": str(config.cycle_time_ms),
    }
    if config.fusion_threshold_bytes is not None:
        environment["HOROVOD_FUSION_THRESHOLD"] = str(config.fusion_threshold_bytes)
    if config.timeline_path is not None:
        environment["HOROVOD_TIMELINE"] = config.timeline_path
    return environment | dict(config.environment)


class Supervisor:
    """Starts the rank's process, introduces it to its peers and listens to it."""

    def __init__(self, task: GangTask, context: BarrierTaskContext, driver: EventClient) -> None:
        self._task = task
        self._context = context
        self._driver = driver
        self._place: Place | None = None
        self._phase = "start"
        self._was_killed = False
        self._own_address = driver.local_address

    @property
    def _rank(self) -> int:
        return self._context.partitionId() if self._place is None else self._place.rank

    @property
    def _host(self) -> str:
        return f"{socket.gethostname()} ({self._own_address})"

    def run(self) -> bytes:
        """Train to the end and return the archive (empty but on rank 0)."""
        from spark_dlobd.backends.process import RankProcess

        resources = self._context.resources()
        gpus = list(resources["gpu"].addresses) if "gpu" in resources else None
        environment = rank_environment(self._task.cores_per_task, gpus, self._task.config)
        module = "spark_dlobd.backends.rank_main"
        with RankProcess(module, environment, self._log) as process:
            process.send({"kind": "job"}, self._task.payload)
            with ExitStack() as stack:
                communicator = self._communicator(stack)
                assert self._place is not None
                process.send(
                    {
                        "kind": "communicator",
                        "environment": communicator,
                        "rank": self._place.rank,
                    }
                )
                self._listen(process, until="met", timeout_s=self._task.config.start_timeout_s)
                if self._task.config.controller == "gloo":
                    # every rank has joined: the open key-value store can go
                    stack.close()
                self._driver.send({"kind": "met"})
                header, archive = self._listen(
                    process, until="result", timeout_s=self._task.config.progress_timeout_s
                )
        if self._rank == 0:
            self._driver.send(header)
        return archive

    def _communicator(self, stack: ExitStack) -> dict[str, str]:
        """Meet all tasks and return what lets this rank find its peers."""
        from spark_dlobd.backends.network import address_of, interface_of

        config = self._task.config
        if config.network_interface is not None:
            self._own_address = address_of(config.network_interface)
        server = None
        announced: dict[str, Any] = {"address": self._own_address}
        if config.controller == "gloo" and self._context.partitionId() == 0:
            server = stack.enter_context(RendezvousServer(self._own_address))
            announced["rendezvous"] = server.address
        mpi = None
        if config.controller == "mpi":
            from spark_dlobd.backends.mpi import MpiGang

            prefix = f"spark-dlobd-{self._task.run_id}"
            mpi = stack.enter_context(
                MpiGang(config, prefix, self._context.partitionId(), self._log)
            )
        gathered = [json.loads(text) for text in self._context.allGather(json.dumps(announced))]
        places = place_ranks([other["address"] for other in gathered])
        self._place = place = places[self._context.partitionId()]
        self._driver.send({"kind": "placed", "placed": place.rank, "host": self._host})
        if mpi is not None:
            return mpi.environment(places, self._context.allGather)
        if server is not None:
            server.expect(places)
        interface = config.network_interface or interface_of(self._own_address)
        return gloo_environment(place, gathered[0]["rendezvous"], interface, config.gloo_timeout_s)

    def _listen(
        self, process: RankProcess, until: str, timeout_s: float
    ) -> tuple[dict[str, Any], bytes]:
        """Forward events until one of kind `until`; `timeout_s` bounds every silence."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                frame = process.frames.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                raise TrainingTimeoutError(
                    f"Rank {self._rank} on {self._host} told nothing for {timeout_s:g} s in phase "
                    f"'{self._phase}'. If that is normal for this model raise "
                    f"{'start_timeout_s' if until == 'met' else 'progress_timeout_s'} of the "
                    "backend's config."
                ) from None
            if frame is None:
                ended = process.exit_text()
                self._was_killed = process.was_killed
                raise WorkerLostError(ended, self._rank, self._host, self._phase)
            header, body = frame
            kind = header["kind"]
            if kind == until:
                return header, body
            if kind == "failed":
                raise RankFailed(header)
            if kind == "phase":
                self._phase = header["phase"]
            if until != "met":
                deadline = time.monotonic() + timeout_s
            self._driver.send(header)

    def failure(self, error: Exception) -> dict[str, Any]:
        """Describe an error of `run` for the driver."""
        described = {"kind": "failed", "failed": self._rank, "host": self._host}
        if isinstance(error, RankFailed):
            return {**error.header, **described}
        cause = "own"
        message = str(error)
        if isinstance(error, WorkerLostError):
            # MPI ends the other ranks with an exit code when it misses one of them
            cause = "lost" if self._was_killed else "aborted"
            message = error.message
        elif isinstance(error, TrainingTimeoutError | TimeoutError):
            cause = "timeout"
        return {
            **described,
            "cause": cause,
            "type": type(error).__name__,
            "message": message,
            "traceback": "",
            "phase": self._phase,
        }

    def _log(self, line: str) -> None:
        self._driver.send({"kind": "log", "text": line, "host": self._host})


class RankFailed(TrainingError):
    """The rank's own process reported an exception."""

    def __init__(self, header: dict[str, Any]) -> None:
        self.header = header
        super().__init__(f"{header['type']}: {header['message']}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.header,)
