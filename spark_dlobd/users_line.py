"""The line of the user's program that led here, for what is told about it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_OURS = str(Path(__file__).parent) + os.sep
_PYTHONS = str(Path(os.__file__).parent) + os.sep


def users_stacklevel() -> int:
    """Return the `stacklevel` with which ``warnings.warn`` of the caller names the user's line.

    Frames of this package, of PySpark (a Pipeline calls our ``fit``) and of Python's own
    library are passed over. Where no other is left, as on a thread of a CrossValidator, it is
    the caller's own line.

    Examples
    --------
    >>> users_stacklevel()
    1
    """
    level, frame = 1, sys._getframe(1)
    inner = _inner_folders()
    while _is_inner(frame.f_code.co_filename, inner):
        if frame.f_back is None:
            return 1
        level, frame = level + 1, frame.f_back
    return level


def users_line() -> str:
    """Return file and number of the user's line as ``file:number``; empty where there is none.

    Examples
    --------
    >>> users_line().rpartition(":")[2].isdigit()
    True
    """
    frame = sys._getframe(users_stacklevel() - 1)
    if frame.f_code.co_filename == __file__:
        return ""
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _inner_folders() -> tuple[str, ...]:
    pyspark = getattr(sys.modules.get("pyspark"), "__file__", None)
    return (_OURS, str(Path(pyspark).parent) + os.sep) if pyspark else (_OURS,)


def _is_inner(file: str, folders: tuple[str, ...]) -> bool:
    of_python = file.startswith(_PYTHONS) and "site-packages" not in file
    return of_python or file.startswith(folders)
