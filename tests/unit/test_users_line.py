from __future__ import annotations

import contextlib
import functools
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pyspark
import pytest

import spark_dlobd
from spark_dlobd import users_line

FILES = [spark_dlobd.__file__, pyspark.__file__, contextlib.__file__]


def in_file(file: str) -> Callable[[Callable[[], Any]], Any]:
    """A function that calls another one, as if it were written in `file`."""
    names: dict[str, Any] = {"users_stacklevel": users_line.users_stacklevel, "warnings": warnings}
    exec(compile("def call(inner):\n    return inner()\n", file, "exec"), names)
    exec(
        compile(
            "def warn():\n    warnings.warn('look', stacklevel=users_stacklevel())\n", file, "exec"
        ),
        names,
    )
    call = names["call"]
    call.warn = names["warn"]
    return call  # type: ignore[no-any-return]


@pytest.mark.parametrize("file", FILES)
def test_libraries_on_the_way_are_passed_over(file: str) -> None:
    line = sys._getframe().f_lineno + 1
    assert in_file(file)(users_line.users_line) == f"{__file__}:{line}"


@pytest.mark.parametrize("file", FILES)
def test_a_warning_names_the_users_line(file: str) -> None:
    call: Any = in_file(file)
    with pytest.warns(UserWarning, match="look") as caught:
        line = sys._getframe().f_lineno + 1
        call(functools.partial(call, call.warn))
    assert [(each.filename, each.lineno) for each in caught] == [(__file__, line)]


def test_a_thread_that_no_users_line_began_has_none() -> None:
    found: list[str] = []
    call = in_file(spark_dlobd.__file__)
    target = functools.partial(call, functools.partial(_append, found))
    _append.__code__ = _append.__code__.replace(co_filename=spark_dlobd.__file__)
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert found == [""]


def _append(found: list[str]) -> None:
    found.append(users_line.users_line())
