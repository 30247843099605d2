"""Values of any kind as strict JSON, and texts without credentials."""

from __future__ import annotations

import math
import re
from pathlib import PurePath
from typing import Any

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s'\"]+@")


def redact(text: str) -> str:
    """Remove ``user:password@`` from every URL in `text`.

    Examples
    --------
    >>> redact("no answer from https://ann:secret@host:5000/api")
    'no answer from https://host:5000/api'
    """
    return _CREDENTIALS.sub("", text)


def jsonable(value: Any) -> Any:
    """Convert `value` to what strict JSON can hold.

    NaN and infinities become the strings ``"NaN"``, ``"Infinity"`` and
    ``"-Infinity"``, which ``float()`` reads back; numpy scalars and arrays
    become numbers and lists; bytes become their length, because a model archive
    does not belong into a log; everything unknown becomes its ``str``.
    URLs in strings lose their credentials.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return _finite_or_name(value)
    if isinstance(value, (str, PurePath)):
        return redact(str(value))
    if isinstance(value, (bytes, bytearray)):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return redact(str(value))


def _finite_or_name(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
