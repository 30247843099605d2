"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "absent", "failed"]


@dataclass(frozen=True)
class Finding:
    """What was found about one thing.

    Attributes
    ----------
    name : str
        The package, program or resource.
    found : str
        What is there, e.g. a version; says so when nothing is.
    expected : str
        What this package asks for; empty if it asks for nothing.
    state : {"ok", "absent", "failed"}
        ``"absent"`` is something optional that is not there, ``"failed"``
        something that must be put right.
    fix : str
        What to do about it; never empty when `state` is ``"failed"``.
    """

    name: str
    found: str
    expected: str = ""
    state: State = "ok"
    fix: str = ""
