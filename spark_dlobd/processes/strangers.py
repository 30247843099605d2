"""What a connection may cost that has not said yet who it is.

Anybody who reaches a port may connect to it. So each such connection has one limit of time
for all that it says, and there are never more than so many of them.
"""

from __future__ import annotations

import hmac
import selectors
import socket
import socketserver
import threading
import time
from contextlib import suppress
from typing import Any

HANDSHAKE_TIMEOUT_S = 10.0
"""Longest time from connecting to having proved who one is."""
MOST_STRANGERS = 64
"""Connections not yet proven at the same time; one more drops the oldest."""


class LimitStrangers(socketserver.ThreadingMixIn):
    """Mixin of a ``socketserver.TCPServer``: limits its connections until they are proven.

    A worker of ours proves itself within milliseconds, so what is dropped where there are
    too many, the oldest, is a stranger. A server whose clients come for one request each
    calls `prove` never: all their time is limited.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    handshake_timeout_s = HANDSHAKE_TIMEOUT_S
    most_strangers = MOST_STRANGERS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lock = threading.Lock()
        self._strangers: dict[socket.socket, float] = {}  # to its limit, the oldest first
        self._proven: set[socket.socket] = set()
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection before its thread starts."""
        with self._lock:
            while len(self._strangers) >= self.most_strangers:
                _drop(self._strangers, next(iter(self._strangers)))
            self._strangers[request] = time.monotonic() + self.handshake_timeout_s
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Drop connections whose time is over; ``serve_forever`` calls this at every poll."""
        now = time.monotonic()
        with self._lock:
            for connection in [c for c, limit in self._strangers.items() if limit < now]:
                _drop(self._strangers, connection)

    def prove(self, connection: socket.socket) -> bool:
        """Limit a connection no longer; False if it was dropped meanwhile."""
        with self._lock:
            if self._strangers.pop(connection, None) is None:
                return False
            self._proven.add(connection)
            return True

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._strangers.pop(request, None)
            self._proven.discard(request)
        super().shutdown_request(request)  # type: ignore[misc]

    @property
    def strangers(self) -> int:
        """Connections that have not proven themselves."""
        with self._lock:
            return len(self._strangers)

    @property
    def any_proven(self) -> bool:
        """Whether any proven connection is open."""
        with self._lock:
            return bool(self._proven)

    def drop_connections(self) -> None:
        """End all connections, so that their threads end."""
        with self._lock:
            for connection in [*self._strangers, *self._proven]:
                _shut(connection)


def _drop(strangers: dict[socket.socket, float], connection: socket.socket) -> None:
    del strangers[connection]
    _shut(connection)


def _shut(connection: socket.socket) -> None:
    # what reads from it sees the end; the thread of the connection closes it
    with suppress(OSError):  # the other end has closed it already
        connection.shutdown(socket.SHUT_RDWR)


class Door:
    """Waits at a listening socket for the one connection that says a token.

    Strangers are heard at the same time, so that none keeps the right one waiting.

    Parameters
    ----------
    listener : socket.socket
        Listens already.
    token : bytes
        What to say first.
    stranger_timeout_s : float, default 10
        Longest time for one connection to say it.
    """

    def __init__(
        self,
        listener: socket.socket,
        token: bytes,
        stranger_timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ) -> None:
        self._listener = listener
        self._token = token
        self._stranger_timeout_s = stranger_timeout_s
        self._selector = selectors.DefaultSelector()
        self._limits: dict[socket.socket, float] = {}  # the oldest first
        self._said: dict[socket.socket, bytes] = {}

    def accept(self, timeout_s: float) -> socket.socket:
        """Return the first connection that says the token; all others are closed.

        Raises
        ------
        TimeoutError
            If none says it within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        with self._selector:
            self._selector.register(self._listener, selectors.EVENT_READ)
            try:
                while (now := time.monotonic()) < deadline:
                    for late in [c for c, limit in self._limits.items() if limit < now]:
                        self._close(late)
                    soonest = min([deadline, *self._limits.values()])
                    for key, _ in self._selector.select(max(soonest - now, 0.001)):
                        if key.fileobj is self._listener:
                            self._let_in()
                        elif key.fileobj in self._limits and self._hear(key.fileobj):
                            del self._limits[key.fileobj]
                            key.fileobj.setblocking(True)
                            return key.fileobj
            finally:
                for left in list(self._limits):
                    self._close(left)
        raise TimeoutError(f"nobody who was expected connected within {timeout_s:g} s")

    def _let_in(self) -> None:
        if len(self._limits) >= MOST_STRANGERS:
            self._close(next(iter(self._limits)))
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it left before it was let in
            return
        connection.setblocking(False)
        self._limits[connection] = time.monotonic() + self._stranger_timeout_s
        self._said[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ)

    def _hear(self, connection: socket.socket) -> bool:
        """Read on; True if the whole token was said, closed if another one was."""
        said = self._said[connection]
        try:
            heard = connection.recv(len(self._token) - len(said))
        except OSError:  # reset
            heard = b""
        self._said[connection] = said = said + heard
        if heard and len(said) < len(self._token):
            return False
        if hmac.compare_digest(said, self._token):
            return True
        self._close(connection)
        return False

    def _close(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()
        del self._limits[connection]
