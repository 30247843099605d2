"""Gloo's rendezvous through the barrier tasks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from spark_dlobd.processes.placement import Place
from spark_dlobd.processes.strangers import MOST_STRANGERS, LimitStrangers


def gloo_environment(
    place: Place, rendezvous: Sequence[Any], interface: str, timeout_s: float
) -> dict[str, str]:
    """Environment from which Horovod's core finds its peers. Pure."""
    host, port = rendezvous
    return {
        "HOROVOD_RANK": str(place.rank),
        "HOROVOD_SIZE": str(place.size),
        "HOROVOD_LOCAL_RANK": str(place.local_rank),
        "HOROVOD_LOCAL_SIZE": str(place.local_size),
        "HOROVOD_CROSS_RANK": str(place.cross_rank),
        "HOROVOD_CROSS_SIZE": str(place.cross_size),
        "HOROVOD_HOSTNAME": place.host,
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": host,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_GLOO_IFACE": interface,
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(int(timeout_s)),
    }


class RendezvousServer:
    """Gloo's key-value store on one address; a context manager.

    Runs in the task of partition 0, which is always rank 0. The store has no
    authentication, so it listens on that address alone and only until every
    rank has joined.
    """

    def __init__(self, host: str) -> None:
        from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

        class Server(LimitStrangers, RendezvousHTTPServer):  # type: ignore[misc]
            """Without proof of who asks, every connection is a stranger's."""

        self._server = Server((host, 0), RendezvousHandler, 0)
        self.address = (host, int(self._server.server_address[1]))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="gloo-rendezvous", daemon=True
        )

    def expect(self, places: Sequence[Place]) -> None:
        """Tell the store who will come; it starts to answer."""
        from horovod.runner.common.util.hosts import SlotInfo

        self._server.most_strangers = MOST_STRANGERS + len(places)
        self._server.init(
            [
                SlotInfo(
                    hostname=place.host,
                    rank=place.rank,
                    local_rank=place.local_rank,
                    cross_rank=place.cross_rank,
                    size=place.size,
                    local_size=place.local_size,
                    cross_size=place.cross_size,
                )
                for place in places
            ]
        )
        self._thread.start()

    def __enter__(self) -> RendezvousServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(timeout=5)
        self._server.server_close()
        self._server.drop_connections()
