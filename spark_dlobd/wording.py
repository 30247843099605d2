"""Phrases that several errors share, so that the same fault reads the same everywhere."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable


def int_range(low: int, high: int | None = None) -> str:
    """Say which ints fit.

    Examples
    --------
    >>> int_range(1), int_range(0, 2)
    ('an int of at least 1', 'an int from 0 to 2')
    """
    return f"an int of at least {low}" if high is None else f"an int from {low} to {high}"


def float_range(low: float, high: float = math.inf, *, open_low: bool = False) -> str:
    """Say which floats fit, `high` not among them.

    Examples
    --------
    >>> float_range(0, open_low=True), float_range(0, 1)
    ('a float above 0', 'a float of at least 0 and below 1')
    """
    floor = f"a float {'above' if open_low else 'of at least'} {low:g}"
    return floor if high == math.inf else f"{floor} and below {high:g}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Sentence with the one of `names` that is nearest to a wrong name; empty if none is near.

    Examples
    --------
    >>> did_you_mean("Horvod", ["local", "horovod"])
    "Did you mean 'horovod'?"
    >>> did_you_mean("zzz", ["local", "horovod"])
    ''
    """
    plain = {_plain(known): known for known in names}
    near = difflib.get_close_matches(_plain(name), plain, 1)
    return f"Did you mean {plain[near[0]]!r}?" if near else ""


_GRAPH_FAILED = "Graph execution error:"
_DEFINED = re.compile(r"Detected at node .* defined at|  File \"")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def useful_part(text: str) -> str:
    r"""Text of an exception, what failed first: without empty lines, colours and graph frames.

    TensorFlow lists all calls by which a node came into a graph before it says what is wrong.

    Examples
    --------
    >>> useful_part("E: Graph execution error:\n\nDetected at node n defined at ...:\n\n7 is wrong")
    'E: 7 is wrong'
    """
    lines = [line for line in _COLOUR.sub("", text).splitlines() if line.strip()]
    before, failed, after = "\n".join(lines).partition(_GRAPH_FAILED)
    if not failed:
        return before
    said = [line for line in after.splitlines() if line and not _DEFINED.match(line)]
    return before + "\n".join(said or [failed])


def _plain(name: str) -> str:
    return name.lower().replace("_", "")
