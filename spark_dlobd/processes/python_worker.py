"""What Spark's Python workers cost, taken away where it can be, and what they offer.

The costs are details of Spark's worker on Linux; elsewhere nothing happens.
"""

from __future__ import annotations

import gc
import os
import socket
import tempfile
import zipimport
from pathlib import Path
from typing import Any

from spark_dlobd.processes.tensorflow_import import import_tensorflow

# of glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_MALLOC_OPTIONS = {
    _M_TRIM_THRESHOLD: 2**31 - 1,
    _M_TOP_PAD: 64 << 20,
    _M_MMAP_THRESHOLD: 32 << 20,  # the highest that it takes
}
_USUAL_TRIM_THRESHOLD = 128 << 10


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


def local_folder() -> Path:
    """Where a worker has its temporary files: the executor deletes them with its own.

    Spark tells Python workers the directories of the executor's block manager. On the
    driver it is the system's temporary directory.
    """
    return Path((os.environ.get("SPARK_LOCAL_DIRS") or tempfile.gettempdir()).split(",")[0])


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


def keep_memory() -> None:
    """Let glibc keep freed memory for the next step instead of giving it back to the kernel.

    TensorFlow allocates and frees megabytes of activations every step; mapped and unmapped
    each time, the kernel would clear every page again, 40 % of a step of LeNet.
    """
    if glibc := _glibc():
        for option, value in _MALLOC_OPTIONS.items():
            glibc.mallopt(option, value)


def give_back_memory() -> None:
    """Undo `keep_memory` where the process goes on with other work."""
    if glibc := _glibc():
        glibc.mallopt(_M_TRIM_THRESHOLD, _USUAL_TRIM_THRESHOLD)
        glibc.malloc_trim(0)


def exempt_from_collection() -> None:
    """Runs on each worker. Let the collection after every task skip what is in memory now.

    Spark's worker collects garbage when a task is done; with TensorFlow in the process that
    takes 0.2 s. What was let go since the last call is collected first.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _glibc() -> Any:
    """None where another C library is."""
    import ctypes

    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def limit_tensorflow_threads(threads: int) -> None:
    """Give TensorFlow the cores of the task, unless it runs in this process already."""
    tf = import_tensorflow()
    from tensorflow.python.eager import context

    if context.context()._initialized:
        return
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
