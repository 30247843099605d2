from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import zipfile
import zipimport
from pathlib import Path

import pytest

from spark_dlobd.processes import python_worker


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    original = zipimport.zipimporter.invalidate_caches
    monkeypatch.setattr(zipimport.zipimporter, "invalidate_caches", original)


def test_archives_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "some.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inside_some_zip.py", "value = 3")
    monkeypatch.syspath_prepend(str(archive))
    assert importlib.import_module("inside_some_zip").value == 3
    reads = []

    def count(path: str) -> dict[str, object]:
        reads.append(path)
        return {}

    monkeypatch.setattr(zipimport, "_read_directory", count)
    importlib.invalidate_caches()
    assert str(archive) in reads
    reads.clear()
    python_worker.speed_up_worker()
    importlib.invalidate_caches()
    assert reads == []


@pytest.mark.skipif(sys.platform != "linux", reason="a Linux socket option")
def test_connections_acknowledge_at_once() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as connection:
        option = (socket.IPPROTO_TCP, socket.TCP_QUICKACK)
        connection.setsockopt(*option, 0)
        assert connection.getsockopt(*option) == 0
        python_worker.speed_up_worker()
        assert connection.getsockopt(*option) == 1


def test_descriptors_stay_open(tmp_path: Path) -> None:
    left, right = socket.socketpair()
    with left, right, open(tmp_path / "file", "w") as file:
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        python_worker.speed_up_worker()
        after = len(os.listdir("/proc/self/fd")) if before else 0
        left.send(b"a")
        file.write("b")
        assert right.recv(1) == b"a"
    assert after == before


KEEPS_AND_GIVES_BACK = """
import psutil
from spark_dlobd.processes.python_worker import give_back_memory, keep_memory

def megabytes():
    return psutil.Process().memory_info().rss / 2**20

keep_memory()
before = megabytes()
blocks = [bytearray(100_000) for _ in range(2_000)]
del blocks
kept = megabytes() - before
give_back_memory()
print(kept, megabytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="options of glibc")
def test_memory_is_kept_until_it_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KEEPS_AND_GIVES_BACK],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    kept, left = map(float, done.stdout.split())
    assert kept > 150, "200 MB were freed"
    assert left < 50
