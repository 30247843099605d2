from __future__ import annotations

import queue
import socket

import pytest

from spark_dlobd.backends.channel import ChannelAddress, EventClient, EventServer


def test_events_arrive_with_their_task() -> None:
    with EventServer("127.0.0.1", "127.0.0.1") as server:
        with EventClient(server.address, 3) as client:
            client.send({"kind": "phase", "phase": "train"})
            assert client.local_address == "127.0.0.1"
        assert server.events.get(timeout=5) == {"kind": "phase", "phase": "train", "rank": 3}
        with pytest.raises(queue.Empty):  # a clean end is no event
            server.events.get(timeout=0.3)


def test_a_worker_that_vanishes_is_an_event() -> None:
    with EventServer("127.0.0.1", "127.0.0.1") as server:
        client = EventClient(server.address, 1)
        client.send({"kind": "met"})
        assert server.events.get(timeout=5)["kind"] == "met"
        client._socket.close()
        assert server.events.get(timeout=5) == {"kind": "disconnected", "rank": 1}


def test_a_stranger_is_not_heard() -> None:
    with EventServer("127.0.0.1", "127.0.0.1") as server:
        address = server.address
        stranger = EventClient(ChannelAddress(address.host, address.port, b"guessed"), 0)
        with pytest.raises(OSError):
            for _ in range(100):
                stranger.send({"kind": "result"})
                if stranger._socket.recv(1) == b"":
                    raise ConnectionResetError
        stranger._socket.close()
        assert server.events.empty()


def test_the_token_never_travels_and_is_not_shown() -> None:
    with EventServer("127.0.0.1", "127.0.0.1") as server:
        token = server.address.token
        assert token.hex() not in repr(server.address)
        assert str(token) not in repr(server.address)
        with socket.create_connection((server.address.host, server.address.port)) as raw:
            assert token not in raw.recv(256)


def test_nothing_listens_afterwards() -> None:
    with EventServer("127.0.0.1", "127.0.0.1") as server:
        address = server.address
    with pytest.raises(OSError):
        socket.create_connection((address.host, address.port), timeout=2)
