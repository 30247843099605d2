"""Ctrl-C and SIGTERM as a question that can be asked, instead of an exception anywhere."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def asked_to_stop(told: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Catch SIGINT and SIGTERM; give a function that says whether one came.

    So a result is written whole, and a case ended in order. The second signal raises
    KeyboardInterrupt, for those who do not want to wait. Call it on the main thread.

    Parameters
    ----------
    told : callable
        Called once by the given function when it first says yes.
    """
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt

    said: list[bool] = []

    def stop() -> bool:
        # not in the handler: it may have cut into a write to the terminal
        if came and not said:
            said.append(True)
            told()
        return bool(came)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
