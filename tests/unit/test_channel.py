from __future__ import annotations

import queue
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from spark_dlobd.processes.channel import ChannelAddress, EventClient, EventServer
from spark_dlobd.processes.events import Disconnected, Met, Phase


def test_events_arrive_with_their_task() -> None:
    with EventServer("127.0.0.1", "127.0.0.1") as server:
        with EventClient(server.address, 3) as client:
            client.tell(Phase("train"))
            assert client.local_address == "127.0.0.1"
        assert server.events.get(timeout=5) == (3, Phase("train"))
        with pytest.raises(queue.Empty):  # a clean end is no event
            server.events.get(timeout=0.3)


def test_a_worker_that_vanishes_is_an_event() -> None:
    with EventServer("127.0.0.1", "127.0.0.1") as server:
        client = EventClient(server.address, 1)
        client.tell(Met())
        assert isinstance(server.events.get(timeout=5)[1], Met)
        client._socket.close()
        assert server.events.get(timeout=5) == (1, Disconnected())


def test_a_stranger_is_not_heard() -> None:
    with EventServer("127.0.0.1", "127.0.0.1") as server:
        address = server.address
        with pytest.raises(ConnectionError, match="knows another token"):
            EventClient(ChannelAddress(address.host, address.port, b"guessed"), 0, timeout_s=0.5)
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


def connect(server: EventServer) -> socket.socket:
    return socket.create_connection((server.address.host, server.address.port), timeout=5)


def is_closed_within(connection: socket.socket, seconds: float, say: bytes = b"") -> bool:
    """Whether the other end closes the connection, on which `say` is said again and again."""
    connection.settimeout(0.05)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            connection.sendall(say)
            if connection.recv(64) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def falls_to(threads: int) -> bool:
    """Whether there are at most so many threads within five seconds."""
    deadline = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    return threading.active_count() <= threads


def test_a_stranger_that_says_a_byte_now_and_then_has_one_limit_for_all_of_it() -> None:
    with EventServer("127.0.0.1", "127.0.0.1") as server:
        server._server.handshake_timeout_s = 0.5
        with connect(server) as stranger:
            assert is_closed_within(stranger, 3.0, say=b"x")


def test_a_worker_is_heard_beside_hundreds_of_strangers() -> None:
    with EventServer("127.0.0.1", "127.0.0.1", clients=2) as server:
        threads = threading.active_count()
        strangers = [connect(server) for _ in range(300)]
        with EventClient(server.address, 1, timeout_s=10) as client:
            client.tell(Met())
            assert server.events.get(timeout=5) == (1, Met())
            assert server._server.strangers <= 66  # 64 and the 2 clients that are expected
            # theirs, the client's and the server's own
            assert falls_to(threads + 68)
            assert is_closed_within(strangers[0], 5.0)  # the oldest went first
            late = [connect(server) for _ in range(200)]
            client.tell(Met())  # who is proven stays
            assert server.events.get(timeout=5) == (1, Met())
        for stranger in strangers + late:
            stranger.close()


def test_a_proven_worker_may_be_silent_for_longer_than_a_handshake() -> None:
    with EventServer("127.0.0.1", "127.0.0.1") as server:
        server._server.handshake_timeout_s = 0.3
        with EventClient(server.address, 0) as client:
            assert not client.closed_by_peer(1.0)
            client.tell(Met())
            assert isinstance(server.events.get(timeout=5)[1], Met)


def test_a_worker_that_was_dropped_among_strangers_connects_again() -> None:
    with EventServer("127.0.0.1", "127.0.0.1") as server:
        server._server.handshake_timeout_s = -1.0  # too late at once
        threading.Timer(1.0, setattr, (server._server, "handshake_timeout_s", 10.0)).start()
        with EventClient(server.address, 0, timeout_s=10) as client:
            client.tell(Met())
            assert server.events.get(timeout=5) == (0, Met())


def test_strangers_leave_no_thread_behind() -> None:
    threads = threading.active_count()
    with EventServer("127.0.0.1", "127.0.0.1") as server:
        strangers = [connect(server) for _ in range(20)]
        while server._server.strangers < 20:
            time.sleep(0.01)
    assert falls_to(threads)
    for stranger in strangers:
        stranger.close()


def gathered(clients: list[EventClient], texts: list[str], timeout_s: float) -> list[list[str]]:
    with ThreadPoolExecutor(len(clients)) as pool:
        told = [
            pool.submit(client.gather, text, timeout_s)
            for client, text in zip(clients, texts, strict=True)
        ]
        return [answer.result() for answer in told]


def test_all_hear_what_each_said_round_after_round() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(EventServer("127.0.0.1", "127.0.0.1", clients=3))
        clients = [stack.enter_context(EventClient(server.address, rank)) for rank in range(3)]
        assert gathered(clients, ["a", "b", "c"], 10) == [["a", "b", "c"]] * 3
        clients[1].tell(Phase("start"))
        assert gathered(clients, ["d", "e\n", "x" * 2**20], 10) == [["d", "e\n", "x" * 2**20]] * 3
        assert server.events.get(timeout=5) == (1, Phase("start"))


def test_a_client_that_leaves_ends_the_wait_of_the_others() -> None:
    with (
        EventServer("127.0.0.1", "127.0.0.1", clients=2) as server,
        EventClient(server.address, 0) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(client.gather, "here", 30)
        with EventClient(server.address, 1):
            pass
        with pytest.raises(ConnectionError, match="another worker left before all had met"):
            waiting.result(timeout=10)
        client.tell(Phase("leave"))  # it can still say so
        assert server.events.get(timeout=5) == (0, Phase("leave"))


def test_a_wait_for_clients_that_do_not_come_ends() -> None:
    with (
        EventServer("127.0.0.1", "127.0.0.1", clients=2) as server,
        EventClient(server.address, 0) as client,
        pytest.raises(TimeoutError),
    ):
        client.gather("here", 0.2)
