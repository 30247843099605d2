"""Events from the workers to the driver: JSON lines over an authenticated socket.

Over the same connection the workers of a gang hear from each other where they are: Spark's own
``BarrierTaskContext.allGather`` takes a second, as it polls.

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
import time
from dataclasses import dataclass

from spark_dlobd.processes.events import Disconnected, Event
from spark_dlobd.processes.strangers import MOST_STRANGERS, LimitStrangers

_WELCOME = b"welcome\n"
_TRY_AGAIN_S = 0.2
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


@dataclass(frozen=True)
class _Gather(Event):
    """A client's part of what all of them hear."""

    text: str


@dataclass(frozen=True)
class _Bye(Event):
    """A client leaves as it should."""


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
    clients : int, default 1
        How many are expected, perhaps all at the same moment.
    """

    def __init__(self, bind_host: str, advertised_host: str, clients: int = 1) -> None:
        self.events: queue.Queue[tuple[int, Event]] = queue.Queue()
        """Who told what."""
        token = secrets.token_bytes(32)
        self._server = _Server((bind_host, 0), _Handler)
        self._server.token = token
        self._server.most_strangers = MOST_STRANGERS + clients
        self._server.sink = self.events
        self._server.gathering = _Gathering(clients)
        port = self._server.server_address[1]
        self.address = ChannelAddress(advertised_host, port, token)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="dl-events", daemon=True
        )

    @property
    def connected(self) -> bool:
        """Whether any worker is still connected."""
        return self._server.any_proven

    def __enter__(self) -> EventServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.gathering.end()
        self._server.shutdown()
        self._server.server_close()
        self._server.drop_connections()
        self._thread.join(timeout=5)


class _Gathering:
    """Collects one text of each client and gives all of them to each, round after round."""

    def __init__(self, clients: int) -> None:
        self._texts: dict[int, str] = {}
        self._round: list[str] = []
        self._all_there = threading.Barrier(clients, self._complete)

    def _complete(self) -> None:
        self._round = [self._texts[rank] for rank in sorted(self._texts)]

    def exchange(self, rank: int, text: str) -> list[str] | None:
        """Wait for the others; None once a client has left."""
        self._texts[rank] = text
        try:
            self._all_there.wait()
        except threading.BrokenBarrierError:
            return None
        return self._round

    def end(self) -> None:
        """Nobody waits any more: a client has left, or the server closes."""
        self._all_there.abort()


class _Server(LimitStrangers, socketserver.TCPServer):
    allow_reuse_address = True
    token: bytes
    sink: queue.Queue[tuple[int, Event]]
    gathering: _Gathering


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        # the server limits the time of all this together
        nonce = secrets.token_hex(16).encode()
        try:
            self.wfile.write(nonce + b"\n")
            proof = self.rfile.readline(256).strip()
            hello = self.rfile.readline(256)
            if not hmac.compare_digest(proof, _answer(self.server.token, nonce)):
                return
            if not self.server.prove(self.connection):
                return
            self.wfile.write(_WELCOME)
        except OSError:  # it left, or was dropped as one of too many
            return
        rank = int(json.loads(hello)["rank"])
        clean = False
        try:
            clean = self._forward(rank)
        except (OSError, ValueError):  # reset or cut mid-line: reported as a disconnect below
            clean = False
        finally:
            self.server.gathering.end()
            if not clean:
                self.server.sink.put((rank, Disconnected()))

    def _forward(self, rank: int) -> bool:
        while line := self.rfile.readline(_MAX_LINE_BYTES):
            event = Event.from_json(json.loads(line))
            if isinstance(event, _Bye):
                return True
            if isinstance(event, _Gather):
                told = self.server.gathering.exchange(rank, event.text)
                self.wfile.write(json.dumps(told).encode() + b"\n")
                continue
            self.server.sink.put((rank, event))
        return False


class EventClient:
    """Worker end of the channel; a context manager. Runs on each worker.

    Parameters
    ----------
    address : ChannelAddress
        Of the driver.
    rank : int
        Who this is.
    timeout_s : float, default 30
        Longest time until the driver has accepted it. A driver that many strangers
        connect to at once may drop a connection; then this connects again.

    Raises
    ------
    ConnectionError, TimeoutError
        If the driver is not reached, or does not accept it in time.
    """

    def __init__(self, address: ChannelAddress, rank: int, timeout_s: float = 30.0) -> None:
        self._lock = threading.Lock()
        deadline = time.monotonic() + timeout_s
        while True:
            left = max(deadline - time.monotonic(), 0.01)
            self._socket = socket.create_connection((address.host, address.port), timeout=left)
            try:
                if self._greet(address.token, rank, deadline):
                    self._socket.settimeout(timeout_s)
                    return
                refused: OSError | None = None
            except OSError as error:
                refused = error
            self._socket.close()
            if time.monotonic() + _TRY_AGAIN_S > deadline:
                raise ConnectionError(
                    f"{address.host}:{address.port} did not accept this worker within "
                    f"{timeout_s:g} s: it is another program's port, knows another token, or is "
                    "flooded with connections"
                ) from refused
            time.sleep(_TRY_AGAIN_S)

    def _greet(self, token: bytes, rank: int, deadline: float) -> bool:
        """Prove this end; whether the other end says welcome."""
        nonce = self._line(deadline)
        hello = json.dumps({"rank": rank}).encode()
        self._socket.sendall(_answer(token, nonce.strip()) + b"\n" + hello + b"\n")
        return self._line(deadline) == _WELCOME

    def _line(self, deadline: float) -> bytes:
        line = b""
        while not line.endswith(b"\n") and len(line) < 256:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.01))
            heard = self._socket.recv(1)
            if not heard:
                break
            line += heard
        return line

    @property
    def local_address(self) -> str:
        """Address of this machine on the route to the driver."""
        return str(self._socket.getsockname()[0])

    def tell(self, event: Event) -> None:
        """Send one event; called from any thread."""
        line = json.dumps(event.to_json()).encode() + b"\n"
        with self._lock:
            self._socket.sendall(line)

    def gather(self, text: str, timeout_s: float) -> list[str]:
        """Tell all clients of the server `text`, and hear theirs.

        Parameters
        ----------
        text : str
            Of this client.
        timeout_s : float
            Longest wait for the others.

        Returns
        -------
        list of str
            One text of each client, by rank.

        Raises
        ------
        TimeoutError
            If not all clients have come in time.
        ConnectionError
            If one has left, or the server has.
        """
        self.tell(_Gather(text))
        self._socket.settimeout(timeout_s)
        with self._socket.makefile("rb") as stream:
            told = json.loads(stream.readline(_MAX_LINE_BYTES) or b"null")
        if told is None:
            raise ConnectionError("another worker left before all had met")
        return list(told)

    def closed_by_peer(self, timeout_s: float) -> bool:
        """Wait until the other end has closed the connection, at most `timeout_s`."""
        readable, _, _ = select.select([self._socket], [], [], timeout_s)
        try:
            return bool(readable) and not self._socket.recv(1)
        except ConnectionError:
            return True

    def __enter__(self) -> EventClient:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.tell(_Bye())
        except OSError:  # the driver is gone; Spark ends this task
            return
        finally:
            self._socket.close()
