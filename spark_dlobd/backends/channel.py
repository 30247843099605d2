"""Events from the workers to the driver: JSON lines over an authenticated socket.

The driver listens only while a gang runs. A worker proves that it knows the
token (HMAC-SHA256 of a nonce), the token itself never travels, and nothing
that arrives is ever unpickled.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import queue
import secrets
import select
import socket
import socketserver
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any

_HANDSHAKE_TIMEOUT_S = 10.0
_MAX_LINE_BYTES = 16 << 20


@dataclass(frozen=True)
class ChannelAddress:
    """Where the driver listens, and the secret of this run."""

    host: str
    port: int
    token: bytes

    def __repr__(self) -> str:
        """Leave the token out: this may end up in a log."""
        return f"ChannelAddress(host={self.host!r}, port={self.port})"


def _answer(token: bytes, nonce: bytes) -> bytes:
    return hmac.new(token, nonce, hashlib.sha256).hexdigest().encode()


class EventServer:
    """Driver end of the channel; a context manager.

    Parameters
    ----------
    bind_host : str
        Address to listen on.
    advertised_host : str
        Address that executors connect to.
    """

    def __init__(self, bind_host: str, advertised_host: str) -> None:
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        token = secrets.token_bytes(32)
        self._server = _Server((bind_host, 0), _Handler)
        self._server.token = token
        self._server.sink = self.events
        port = self._server.server_address[1]
        self.address = ChannelAddress(advertised_host, port, token)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="dl-events", daemon=True
        )

    @property
    def connected(self) -> bool:
        """Whether any worker is still connected."""
        return self._server.is_connected()

    def __enter__(self) -> EventServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._server.drop_connections()
        self._thread.join(timeout=5)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    token: bytes
    sink: queue.Queue[dict[str, Any]]

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        super().__init__(address, handler)
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def remember(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)

    def is_connected(self) -> bool:
        with self._lock:
            return bool(self._connections)

    def drop_connections(self) -> None:
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # already closed by the worker
                    continue


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        self.connection.settimeout(_HANDSHAKE_TIMEOUT_S)
        nonce = secrets.token_hex(16).encode()
        try:
            self.wfile.write(nonce + b"\n")
            proof = self.rfile.readline(256).strip()
            hello = self.rfile.readline(256)
        except OSError:  # a stranger that says nothing is none of our workers
            return
        if not hmac.compare_digest(proof, _answer(self.server.token, nonce)):
            return
        self.connection.settimeout(None)
        self.server.remember(self.connection)
        rank = int(json.loads(hello)["rank"])
        clean = False
        try:
            clean = self._forward(rank)
        except (OSError, ValueError):  # reset or cut mid-line: reported as a disconnect below
            clean = False
        finally:
            self.server.forget(self.connection)
            if not clean:
                self.server.sink.put({"kind": "disconnected", "rank": rank})

    def _forward(self, rank: int) -> bool:
        while line := self.rfile.readline(_MAX_LINE_BYTES):
            event = json.loads(line)
            if event.get("kind") == "bye":
                return True
            self.server.sink.put({**event, "rank": rank})
        return False


class EventClient:
    """Worker end of the channel; a context manager. Runs on each worker."""

    def __init__(self, address: ChannelAddress, rank: int, timeout_s: float = 30.0) -> None:
        self._socket = socket.create_connection((address.host, address.port), timeout=timeout_s)
        self._lock = threading.Lock()
        reader = self._socket.makefile("rb")
        nonce = reader.readline(256).strip()
        hello = json.dumps({"rank": rank}).encode()
        self._socket.sendall(_answer(address.token, nonce) + b"\n" + hello + b"\n")
        reader.close()

    @property
    def local_address(self) -> str:
        """Address of this machine on the route to the driver."""
        return str(self._socket.getsockname()[0])

    def send(self, event: dict[str, Any]) -> None:
        """Send one JSON-able event."""
        line = json.dumps(event).encode() + b"\n"
        with self._lock:
            self._socket.sendall(line)

    def closed_by_peer(self, timeout_s: float) -> bool:
        """Wait until the other end has closed the connection, at most `timeout_s`."""
        readable, _, _ = select.select([self._socket], [], [], timeout_s)
        try:
            return bool(readable) and not self._socket.recv(1)
        except ConnectionError:
            return True

    def __enter__(self) -> EventClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.send({"kind": "bye"})
        except OSError:  # the driver is gone; Spark ends this task
            return
        finally:
            self._socket.close()
