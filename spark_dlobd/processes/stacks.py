"""What the threads of a process that stands still are doing. Pure, but for `answer_with_stacks`.

The process is asked by a signal and writes its Python stacks to its standard error, also while
another thread holds the interpreter's lock.
"""

from __future__ import annotations

import faulthandler
import re
import signal
from collections.abc import Iterable, Mapping

SIGNAL = signal.SIGUSR2
_MAIN_LINES, _THREAD_LINES, _THREADS = 15, 5, 6
# what every thread began with
_BEGINNING = ("in run_child", "in _bootstrap_inner", "in _bootstrap")
_THREAD = re.compile(r"(Current thread|Thread) 0x[0-9a-f]+.* \(most recent call first\):")


def answer_with_stacks() -> None:
    """Let this process answer the signal. Runs on each worker, in its child processes."""
    faulthandler.register(SIGNAL, file=2, all_threads=True)


def is_of_stacks(line: str) -> bool:
    """Whether a line is one of those that the answer is made of.

    Examples
    --------
    >>> is_of_stacks('  File "/a/b.py", line 3 in act'), is_of_stacks("loss 0.3")
    (True, False)
    """
    return not line.strip() or line.startswith(("  File ", "  ...")) or bool(_THREAD.match(line))


def readable(lines: Iterable[str]) -> str:
    """Stacks with the main thread's first, without addresses, shortened.

    Examples
    --------
    >>> told = ["Thread 0x7f01 (most recent call first):", '  File "a.py", line 1 in wait', ""]
    >>> told += ["Current thread 0x7f02 (most recent call first):", '  File "b.py", line 2 in act']
    >>> print(readable(told))
      File "b.py", line 2 in act
    another thread:
      File "a.py", line 1 in wait
    """
    threads: list[list[str]] = []
    for line in lines:
        if _THREAD.match(line):
            threads.append([])
        elif line.strip() and threads:
            threads[-1].append(line)
    # the interpreter lists the newest thread first
    main, *others = [found for thread in reversed(threads) if (found := _useful(thread))] or [[]]
    kept = main[:_MAIN_LINES]
    for other in others[:_THREADS]:
        kept += ["another thread:", *other[:_THREAD_LINES]]
    return "\n".join(kept)


def _useful(thread: list[str]) -> list[str]:
    """Lines above those that say how the thread began."""
    starts = [place for place, line in enumerate(thread) if line.endswith(_BEGINNING)]
    return thread[: starts[0]] if starts else thread


def of_all_ranks(stacks: Mapping[int, str]) -> str:
    """Stacks by rank; those of ranks that do the same once.

    Examples
    --------
    >>> print(of_all_ranks({1: "  act", 0: "  wait", 2: "  wait"}))
    Python stacks of rank 0, 2:
      wait
    Python stacks of rank 1:
      act
    """
    same: dict[str, list[int]] = {}
    for rank in sorted(stacks):
        same.setdefault(stacks[rank], []).append(rank)
    return "\n".join(
        f"Python stacks of rank {', '.join(map(str, ranks))}:\n{text}"
        for text, ranks in same.items()
    )
