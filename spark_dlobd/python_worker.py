"""Fixed costs that Spark's Python worker adds to every task, taken away where they can be.

Both are details of Spark's worker on Linux; elsewhere nothing happens.
"""

from __future__ import annotations

import os
import socket
import zipimport
from pathlib import Path


def speed_up_worker() -> None:
    """Runs on each worker. Call it first in a function that Spark runs as a task.

    Spark calls ``importlib.invalidate_caches()`` at the start of every task, which
    makes each zipimporter of ``pyspark.zip`` read the archive's directory again:
    0.15 to 0.43 s. The archive does not change while the worker lives, so from now
    on this process skips that. And delayed acknowledgements on the loopback
    connection to the JVM cost 40 ms a task until the connection acknowledges at once;
    the kernel forgets that setting, so it has to be repeated.
    """
    setattr(zipimport.zipimporter, "invalidate_caches", _nothing)  # noqa: B010 (typed as final)
    for descriptor in _open_descriptors():
        _acknowledge_at_once(descriptor)


def _nothing(importer: zipimport.zipimporter) -> None:
    return None


def _open_descriptors() -> list[int]:
    folder = Path("/proc/self/fd")
    if not hasattr(socket, "TCP_QUICKACK") or not folder.is_dir():
        return []
    return [int(name) for name in os.listdir(folder)]


def _acknowledge_at_once(descriptor: int) -> None:
    try:
        if not os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
            return
        connection = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return  # closed meanwhile, for example the descriptor of the listing itself
    with connection:
        stream = connection.type == socket.SOCK_STREAM
        if stream and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
