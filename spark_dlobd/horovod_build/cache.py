"""Where finished wheels are kept, one folder for each set of versions."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from spark_dlobd.errors import BuildError
from spark_dlobd.horovod_build.needs import HOROVOD_VERSION, openmpi_version, tensorflow_version

RECIPE = "r2"
"""Part of the cache key; changes when the wheel is built differently."""

LOCK_TIMEOUT_S = 3600


def cache_key() -> str:
    """Name what the binary depends on."""
    python = f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
    libc = "".join(platform.libc_ver())
    return (
        f"horovod{HOROVOD_VERSION}-{RECIPE}-tf{tensorflow_version()}"
        f"-openmpi{openmpi_version()}-{python}-{libc}"
    )


def cache_dir() -> Path:
    """Return the folder of this environment's wheel."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "spark-dlobd" / "wheels" / cache_key()


def cached_wheel(folder: Path) -> Path | None:
    """Return the finished wheel in `folder`, if there is one."""
    wheels = sorted(folder.glob("horovod-*.whl"))
    return wheels[0] if wheels else None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache folder, so that two runs do not build twice."""
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    waiting = False
    with (folder / ".lock").open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise BuildError(
                        f"Another build held {folder}/.lock for {LOCK_TIMEOUT_S} s."
                    ) from error
                if not waiting:
                    print(f"Waiting for another build in {folder}", flush=True)
                    waiting = True
                time.sleep(1)
        yield
