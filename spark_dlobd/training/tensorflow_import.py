"""TensorFlow without what only Keras's extras need: half of the time of its import.

Keras imports scikit-learn and matplotlib where they are installed, for wrappers and for
pictures. Every rank, server and probe is a process that imports TensorFlow before it can do
anything, with as many of them at once as there are cores.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

# Keras's scikit-learn wrappers derive from its classes, so they cannot come later.
_LEFT_OUT = ("sklearn",)
_DEFERRED = ("matplotlib", "matplotlib.pyplot", "matplotlib.patches")


def import_tensorflow() -> Any:
    """Runs on each worker. Import TensorFlow, and with it Keras, as a worker needs them.

    In this process Keras then finds matplotlib when it is used, and says that
    scikit-learn is missing if one of its wrappers for that is used; other code
    imports both as always. What was imported before stays as it is.

    Returns
    -------
    module
        ``tensorflow``.

    Examples
    --------
    >>> tf = import_tensorflow()
    >>> tf.__name__
    'tensorflow'
    """
    with _hidden():
        return importlib.import_module("tensorflow")


class _Deferred(ModuleType):
    """Imported when something of it is used for the first time."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or sys.modules.get(self.__name__) is self:
            raise AttributeError(f"module {self.__name__!r} is not imported yet: no {name!r}")
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def _hidden() -> Iterator[None]:
    stand_ins: dict[str, ModuleType | None] = {
        name: None for name in _LEFT_OUT if name not in sys.modules
    }
    if not any(name in sys.modules for name in _DEFERRED):
        stand_ins |= {name: _Deferred(name) for name in _DEFERRED}
        for name in _DEFERRED[1:]:
            setattr(stand_ins["matplotlib"], name.rpartition(".")[2], stand_ins[name])
    sys.modules.update(stand_ins)  # type: ignore[arg-type]  # None means: not there
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
