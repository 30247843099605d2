"""One line of the doctor's report, and what follows for a backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "absent", "failed"]

HOROVOD = "horovod"
HOROVOD_MPI = "horovod, controller mpi"
BARRIER_BACKENDS = (HOROVOD, HOROVOD_MPI, "collective", "parameter_server")
BACKENDS = ("local", "shuffle", "collective", "parameter_server", HOROVOD, HOROVOD_MPI)


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
        What to do about it, in words.
    commands : tuple of str
        What to type for it. Of `fix` and `commands` one is there when `state` is
        ``"failed"``.
    needed_by : tuple of str
        The backends that do not work unless `state` is ``"ok"``; default all.
    """

    name: str
    found: str
    expected: str = ""
    state: State = "ok"
    fix: str = ""
    commands: tuple[str, ...] = ()
    needed_by: tuple[str, ...] = BACKENDS


@dataclass(frozen=True)
class Verdict:
    """Whether a backend works.

    Attributes
    ----------
    backend : str
        Its name.
    works : bool
        Whether nothing that it needs is missing.
    text : str
        What it needs, or how far it goes.
    commands : tuple of str
        What to type so that it works.
    """

    backend: str
    works: bool
    text: str
    commands: tuple[str, ...] = ()
