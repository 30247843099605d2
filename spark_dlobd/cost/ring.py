"""The tasks of a barrier stage, connected in a ring over TCP. Runs on each worker.

Tasks stand in the order of Horovod's ranks, so that a ring over several hosts crosses each
link between two hosts once in either direction.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import TYPE_CHECKING

from spark_dlobd.processes.placement import place_ranks
from spark_dlobd.processes.strangers import Door

if TYPE_CHECKING:
    from pyspark import BarrierTaskContext


class Ring:
    """Connections to both neighbours; a context manager. Every task makes one.

    Parameters
    ----------
    context : pyspark.BarrierTaskContext
        Carries the addresses.
    driver_host : str
        Decides the interface: the one that leads to the driver, as Horovod's default.
    token : bytes
        What a neighbour says first; anybody else is turned away.
    timeout_s : float
        Longest wait for a neighbour.
    """

    def __init__(
        self, context: BarrierTaskContext, driver_host: str, token: bytes, timeout_s: float
    ) -> None:
        self._context = context
        self._driver_host = driver_host
        self._token = token
        self._timeout_s = timeout_s
        self._next: socket.socket | None = None
        self._previous: socket.socket | None = None
        self.address = ""
        self.rank = 0
        self.size = 1
        self.local_size = 1
        """Tasks of this host."""

    def __enter__(self) -> Ring:
        self.address = address_towards(self._driver_host)
        with socket.create_server((self.address, 0)) as listener:
            own = [self.address, listener.getsockname()[1]]
            gathered = [json.loads(text) for text in self._context.allGather(json.dumps(own))]
            places = place_ranks([address for address, _ in gathered])
            place = places[self._context.partitionId()]
            self.rank, self.size, self.local_size = place.rank, place.size, place.local_size
            if self.size == 1:
                return self
            by_rank = {p.rank: tuple(gathered[task]) for task, p in enumerate(places)}
            try:
                following = by_rank[(self.rank + 1) % self.size]
                self._next = socket.create_connection(following, timeout=self._timeout_s)
                self._next.sendall(self._token)
                self._previous = Door(listener, self._token).accept(self._timeout_s)
            except BaseException:
                self.__exit__(None, None, None)
                raise
        for connection in (self._next, self._previous):
            connection.settimeout(self._timeout_s)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *_: object) -> None:
        for connection in (self._next, self._previous):
            if connection is not None:
                connection.close()
        self._next = self._previous = None

    def meet(self) -> None:
        """Return when every task has called this."""
        for _ in range(self.size - 1):
            self.pass_on(1)

    def pass_on(self, size: int) -> float:
        """Send `size` bytes to the next task while as many come from the one before; seconds."""
        if self._next is None or self._previous is None:
            return 0.0
        data = memoryview(bytearray(size))
        target = memoryview(bytearray(size))
        began = time.perf_counter()
        if size <= 1024:  # fits into the socket's buffer
            self._next.sendall(data)
            _receive(self._previous, target)
            return time.perf_counter() - began
        sender = threading.Thread(target=_send, args=(self._next, data), daemon=True)
        sender.start()
        _receive(self._previous, target)
        sender.join(self._timeout_s)
        return time.perf_counter() - began


def _send(connection: socket.socket, data: memoryview) -> None:
    try:
        connection.sendall(data)
    except OSError:
        # the neighbour left, or takes nothing: it is missed when its bytes are awaited
        connection.close()


def _receive(connection: socket.socket, target: memoryview) -> None:
    while target:
        received = connection.recv_into(target)
        if not received:
            raise ConnectionError("the neighbour in the ring left")
        target = target[received:]


def address_towards(host: str) -> str:
    """IPv4 address of this machine on the way to `host`; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])
