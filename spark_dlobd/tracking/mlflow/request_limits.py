"""Short MLflow request limits for one thread.

MLflow reads the limits of its HTTP requests from process-wide environment
variables at every request. Changing the environment would cut short whatever else
the process asks MLflow for at that moment, and writing it while native threads
read it is unsafe. So the objects that read it, in ``mlflow.environment_variables``,
get a ``get`` that first looks into a context variable: inside of `request_limits`
the calling thread sees the short limits, every other thread sees what it saw before.

Where a future MLflow reads its limits elsewhere, requests fall back to MLflow's own
limits; the wait at the end of a fit stays bounded, because the fit only waits for
the delivery thread for so long.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_SCOPED: ContextVar[dict[str, Any] | None] = ContextVar("spark_dlobd_mlflow_limits", default=None)
_INSTALL_LOCK = threading.Lock()


@contextmanager
def request_limits(timeout_s: float) -> Iterator[None]:
    """Limit MLflow's requests of this thread to one try of `timeout_s` seconds each.

    MLflow prints no links meanwhile: they would hold the credentials of the
    tracking URI.
    """
    values = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": timeout_s,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": 0,
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": True,
    }
    for name in values:
        _install(name)
    token = _SCOPED.set(values)
    try:
        yield
    finally:
        _SCOPED.reset(token)


def _install(name: str) -> None:
    import mlflow.environment_variables as variables

    variable = getattr(variables, name, None)
    with _INSTALL_LOCK:
        if variable is None or isinstance(variable.__dict__.get("get"), _ScopedGet):
            return
        variable.get = _ScopedGet(name, variable.get)


class _ScopedGet:
    """Replaces ``get`` of one of MLflow's environment variables."""

    def __init__(self, name: str, original: Any) -> None:
        self._name = name
        self._original = original

    def __call__(self) -> Any:
        scoped = _SCOPED.get()
        return self._original() if scoped is None else scoped[self._name]
