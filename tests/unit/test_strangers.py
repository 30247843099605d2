from __future__ import annotations

import importlib.util
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from spark_dlobd.processes.strangers import Door

TOKEN = b"the token of one probe"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def connect(listener: socket.socket, say: bytes = b"") -> socket.socket:
    connection = socket.create_connection(listener.getsockname(), timeout=5)
    connection.sendall(say)
    return connection


def test_silent_strangers_do_not_keep_the_neighbour_waiting(listener: socket.socket) -> None:
    strangers = [connect(listener) for _ in range(5)]
    strangers += [connect(listener, b"GET / HTTP/1.1\r\n\r\n"), connect(listener, TOKEN[:3])]
    neighbour = connect(listener, TOKEN)
    began = time.monotonic()
    with Door(listener, TOKEN).accept(timeout_s=30) as accepted:
        assert time.monotonic() - began < 10  # of the 30 it may wait
        neighbour.sendall(b"zeros")
        assert accepted.recv(5) == b"zeros"
    for stranger in strangers:
        assert stranger.recv(1) == b""
        stranger.close()
    neighbour.close()


def test_more_strangers_than_are_kept_do_not_keep_the_neighbour_out(
    listener: socket.socket,
) -> None:
    strangers = [connect(listener) for _ in range(100)]
    neighbour = connect(listener, TOKEN)
    Door(listener, TOKEN).accept(timeout_s=30).close()
    for connection in [*strangers, neighbour]:
        connection.close()


def test_a_token_that_comes_in_pieces_is_heard(listener: socket.socket) -> None:
    neighbour = connect(listener, TOKEN[:5])
    threading.Timer(0.3, neighbour.sendall, (TOKEN[5:],)).start()
    Door(listener, TOKEN).accept(timeout_s=30).close()
    neighbour.close()


def test_a_stranger_has_one_limit_for_all_it_says(listener: socket.socket) -> None:
    stranger = connect(listener, TOKEN[:3])
    door = Door(listener, TOKEN, stranger_timeout_s=0.3)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="nobody who was expected connected within 1 s"):
        door.accept(timeout_s=1)
    assert 1 <= time.monotonic() - began < 10
    assert stranger.recv(1) == b""
    stranger.close()


@pytest.mark.skipif(importlib.util.find_spec("horovod") is None, reason="needs Horovod")
def test_slow_strangers_of_the_rendezvous_are_dropped_and_go_with_it() -> None:
    from spark_dlobd.backends.horovod.gloo import RendezvousServer
    from spark_dlobd.processes.placement import place_ranks

    def put(address: Any, body: bytes) -> bytes:
        with socket.create_connection(address, timeout=5) as peer:
            head = f"PUT /global/0 HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
            peer.sendall(head.encode() + body)
            return peer.recv(64)

    before = set(threading.enumerate())
    with RendezvousServer("127.0.0.1") as server:
        server.expect(place_ranks(["127.0.0.1", "127.0.0.1"]))
        strangers = [socket.create_connection(server.address, timeout=5) for _ in range(100)]
        assert put(server.address, b"where I am").startswith(b"HTTP/1.0 200")
        assert strangers[0].recv(1) == b""
    deadline = time.monotonic() + 2  # Horovod's own limit is 3 s
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()
    for stranger in strangers:
        stranger.close()
