"""Stages that move bytes and do nothing else. Runs on each worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from spark_dlobd.python_worker import keep_memory, speed_up_worker

_payloads: dict[int, bytes] = {}


def places(partitions: int, partition: int, records: Iterable[bytes]) -> Iterator[bytes]:
    """One empty record for every partition."""
    speed_up_worker()
    keep_memory()
    for _ in records:
        pass
    yield from [b""] * partitions


def stage(partitions: int, size: int, partition: int, records: Iterable[bytes]) -> Iterator[bytes]:
    """Read everything, send `size` bytes to every partition."""
    from pyspark.serializers import pack_long

    speed_up_worker()
    for _ in records:
        pass
    if size not in _payloads:
        import numpy as np

        _payloads.clear()
        _payloads[size] = np.random.default_rng(0).bytes(size)
    for target in range(partitions):
        yield pack_long(target)
        yield _payloads[size]


def last(partition: int, records: Iterable[bytes]) -> Iterator[bytes]:
    """Read everything."""
    speed_up_worker()
    for _ in records:
        pass
    yield from ()
