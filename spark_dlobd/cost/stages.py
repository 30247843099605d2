"""Shuffle stages that move bytes and do nothing else. Runs on each worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from spark_dlobd.processes.python_worker import keep_memory, speed_up_worker

# longer than the 64 KiB in which LZ4, Spark's default, looks for repetitions
_BLOCK_BYTES = 128 << 10


def places(partitions: int, partition: int, records: Iterable[bytes]) -> Iterator[bytes]:
    """Get this Python worker ready."""
    speed_up_worker()
    keep_memory()
    for _ in records:
        pass
    yield from ()


def moving_stage(
    partitions: int, size: int, partition: int, records: Iterable[bytes]
) -> Iterator[bytes]:
    """Read everything, send `size` bytes to every partition."""
    from pyspark.serializers import pack_long

    speed_up_worker()
    for _ in records:
        pass
    record = _payload(size)
    for target in range(partitions):
        yield pack_long(target)
        yield record


def last_stage(partition: int, records: Iterable[bytes]) -> Iterator[bytes]:
    """Read everything."""
    speed_up_worker()
    for _ in records:
        pass
    yield from ()


def _payload(size: int) -> bytes:
    """Bytes that cannot be compressed."""
    import random

    block = random.Random(0).randbytes(min(size, _BLOCK_BYTES))
    return (block * (size // len(block) + 1))[:size] if block else b""
