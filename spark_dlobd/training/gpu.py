"""Load and memory of the GPUs of a rank, read through NVML. Runs on each worker."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spark_dlobd.errors import MissingDependencyError

_DRIVER = Path("/proc/driver/nvidia/version")


def visible(count: int, setting: str | None) -> list[int | str]:
    """Indices or UUIDs of the GPUs that CUDA_VISIBLE_DEVICES leaves of `count`. Pure.

    As for CUDA, an index that does not exist ends the list.

    Examples
    --------
    >>> visible(4, "2,0")
    [2, 0]
    >>> visible(2, None)
    [0, 1]
    """
    if setting is None:
        return list(range(count))
    found: list[int | str] = []
    for name in filter(None, (part.strip() for part in setting.split(","))):
        if not name.lstrip("-").isdigit():
            found.append(name)
        elif 0 <= int(name) < count:
            found.append(int(name))
        else:
            break
    return found


class Gpus:
    """Some GPUs of this host.

    Parameters
    ----------
    nvml : module
        ``pynvml``, initialized.
    handles : sequence
        Its handles of the GPUs.
    """

    def __init__(self, nvml: Any, handles: Sequence[Any]) -> None:
        self._nvml = nvml
        self._handles = handles

    def read(self) -> tuple[float, float]:
        """Mean load in percent, summed memory in use in bytes."""
        loads = [self._nvml.nvmlDeviceGetUtilizationRates(h).gpu for h in self._handles]
        used = [self._nvml.nvmlDeviceGetMemoryInfo(h).used for h in self._handles]
        return sum(loads) / len(loads), float(sum(used))


@contextmanager
def open_gpus() -> Iterator[Gpus | None]:
    """GPUs that this process may use; None where there are none.

    Raises
    ------
    MissingDependencyError
        There is an NVIDIA driver, but not the package nvidia-ml-py.
    """
    nvml = _initialized()
    if nvml is None:
        yield None
        return
    try:
        names = visible(nvml.nvmlDeviceGetCount(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        handles = [
            nvml.nvmlDeviceGetHandleByIndex(name)
            if isinstance(name, int)
            else nvml.nvmlDeviceGetHandleByUUID(name)
            for name in names
        ]
        yield Gpus(nvml, handles) if handles else None
    finally:
        nvml.nvmlShutdown()


def _initialized() -> Any:
    if not _DRIVER.exists():
        return None
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise MissingDependencyError(
            "The load of GPUs is not sampled, because the package nvidia-ml-py is not installed "
            "on the workers. Run: pip install nvidia-ml-py"
        ) from error
    nvml.nvmlInit()
    return nvml
