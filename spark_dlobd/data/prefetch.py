"""Reading ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from spark_dlobd.errors import TrainingError, TrainingTimeoutError

T = TypeVar("T")


class _End:
    """Last item of the queue: why the source ended."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Producer(Generic[T]):
    """Moves items of an iterator into a bounded queue."""

    def __init__(self, source: Iterator[T], depth: int) -> None:
        self.items: queue.Queue[T | _End] = queue.Queue(depth)
        self._source = source
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dlobd-reader", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._source:
                if not self._put(item):
                    return
        except BaseException as caught:
            error = caught
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()
            self._put(_End(error))

    def _put(self, item: T | _End) -> bool:
        while not self._stopped.is_set():
            try:
                self.items.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def get(self, timeout_s: float) -> T | _End:
        try:
            return self.items.get(timeout=timeout_s)
        except queue.Empty:
            raise TrainingTimeoutError(
                f"Reading the training data gave nothing for {timeout_s:g} s. Expected the next "
                f"rows: check that the cache directory's file system answers."
            ) from None

    def stop(self, timeout_s: float) -> None:
        self._stopped.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TrainingError(
                f"The reading thread did not end within {timeout_s:g} s: a read of the cache "
                f"directory hangs. Check that its file system answers."
            )


@contextmanager
def read_ahead(
    source: Iterator[T], depth: int = 2, wait_timeout_s: float = 600.0, stop_timeout_s: float = 30.0
) -> Iterator[Iterator[T]]:
    """Iterate over `source` while a thread fetches the next items.

    Parameters
    ----------
    source : iterator
        Runs in the thread. What it raises is raised to the consumer.
    depth : int, default 2
        Most items waiting for the consumer.
    wait_timeout_s : float, default 600
        Longest wait for an item, in seconds.
    stop_timeout_s : float, default 30
        Longest wait for the thread to end on leaving, in seconds.

    Raises
    ------
    TrainingTimeoutError
        No item came within `wait_timeout_s`.
    TrainingError
        The thread did not end within `stop_timeout_s`.
    """
    producer = _Producer(source, depth)
    try:
        yield _consume(producer, wait_timeout_s)
    finally:
        producer.stop(stop_timeout_s)


def _consume(producer: _Producer[T], wait_timeout_s: float) -> Iterator[T]:
    while True:
        item = producer.get(wait_timeout_s)
        if isinstance(item, _End):
            if item.error is not None:
                raise item.error
            return
        yield item
