"""Backends by name: refuses silent overrides, lists what is valid, never guesses."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spark_dlobd.errors import ConfigurationError, ConfigurationTypeError
from spark_dlobd.processes.mpirun import mpi_problem
from spark_dlobd.wording import did_you_mean

if TYPE_CHECKING:
    from spark_dlobd.backends.base import Backend

_BACKENDS: dict[str, str] = {}
_OTHER_NAMES = {
    "gloo": "backend='horovod'",
    "mpi": "backend=HorovodConfig(controller='mpi')",
    "ps": "backend='parameter_server'",
}


def register_backend(name: str, config_class: str) -> None:
    """Make a backend selectable by name.

    Parameters
    ----------
    name : str
        What users pass as ``backend=``.
    config_class : str
        ``"module:Class"`` of a frozen dataclass whose fields are the options
        and whose ``create()`` returns the backend.

    Raises
    ------
    ConfigurationError
        If the name is taken by another class.
    """
    if name == "auto" or _BACKENDS.get(name, config_class) != config_class:
        raise ConfigurationError(
            f"The backend name {name!r} is taken by {_BACKENDS.get(name, 'the automatic choice')}. "
            "Register yours under another name."
        )
    _BACKENDS[name] = config_class


register_backend("local", "spark_dlobd.backends.local:LocalConfig")
register_backend("horovod", "spark_dlobd.backends.horovod.config:HorovodConfig")
register_backend("collective", "spark_dlobd.backends.collective.config:CollectiveConfig")
register_backend(
    "parameter_server", "spark_dlobd.backends.parameter_server.config:ParameterServerConfig"
)
register_backend("shuffle", "spark_dlobd.backends.shuffle.config:ShuffleConfig")


def backend_names() -> tuple[str, ...]:
    """Names of all registered backends, sorted."""
    return tuple(sorted(_BACKENDS))


def _expected() -> str:
    names = ", ".join(map(repr, backend_names()))
    return f"'auto', one of {names}, or a config object such as HorovodConfig()"


def _hint(name: str) -> str:
    if name.lower() in _OTHER_NAMES:
        return f"Write {_OTHER_NAMES[name.lower()]}."
    return did_you_mean(name, ["auto", *backend_names()])


def _config_class(name: str) -> Any:
    if name not in _BACKENDS:
        message = f"backend must be {_expected()}. Got {name!r}. {_hint(name)}"
        raise ConfigurationError(message.strip())
    module, _, attribute = _BACKENDS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def to_param(value: Any) -> str | dict[str, Any]:
    """Turn a name or a config object into what the Param stores (JSON-able)."""
    if isinstance(value, str):
        if value != "auto":
            _config_class(value)
        return value
    if isinstance(value, dict) and "name" in value:
        return to_param(from_param(value))
    for name in backend_names():
        if type(value) is _config_class(name):
            return {"name": name, **dataclasses.asdict(value)}
    hint = f" Write {value.__name__}()." if isinstance(value, type) else ""
    raise ConfigurationTypeError(
        f"backend must be {_expected()}. Got {value!r} of type {type(value).__name__}.{hint}"
    )


def from_param(value: str | dict[str, Any]) -> Any:
    """Turn what the Param stores into ``"auto"`` or a config object."""
    if isinstance(value, str):
        return value if value == "auto" else _config_class(value)()
    options = dict(value)
    config_class = _config_class(options.pop("name"))
    known = {field.name for field in dataclasses.fields(config_class)}
    if unknown := sorted(set(options) - known):
        raise ConfigurationError(
            f"{config_class.__name__} has no option {', '.join(unknown)}. "
            + (did_you_mean(unknown[0], known) or f"Its options are {', '.join(sorted(known))}.")
        )
    return config_class(**options)


@dataclass(frozen=True)
class Choice:
    """What trains, and why.

    Attributes
    ----------
    backend : Backend
        With its options.
    reason : str
        In words, for the report.
    """

    backend: Backend
    reason: str


def choose_backend(
    value: str | dict[str, Any], world_size: int, protected: str | None = None
) -> Choice:
    """Return the backend to use and why.

    The rule of ``"auto"`` asks nothing of the cluster. With one worker: ``local``. With
    several: ``horovod`` where it is installed on the driver; else ``collective`` where MPI
    can start from the driver, unless Spark protects its traffic, which MPI would not; else
    ``shuffle``, which needs nothing but Spark. Any other value means exactly that backend.

    Parameters
    ----------
    value : str or dict
        What the Param holds.
    world_size : int
        Number of workers.
    protected : str, optional
        The setting by which Spark authenticates or encrypts its traffic, if it does.
    """
    config = from_param(value)
    if config != "auto":
        return Choice(config.create(), "chosen by the user")
    name, reason = _automatic(world_size, protected)
    return Choice(_config_class(name)().create(), f"auto: {reason}")


def _automatic(world_size: int, protected: str | None) -> tuple[str, str]:
    if world_size == 1:
        return "local", "one worker needs no communication"
    if importlib.util.find_spec("horovod") is not None:
        return "horovod", "several workers, and Horovod is installed"
    if mpi_problem() is not None:
        return "shuffle", (
            "several workers, and neither Horovod nor MPI is installed, so gradients travel "
            "through Spark's shuffle"
        )
    if protected is not None:
        return "shuffle", (
            f"several workers, and {protected} protects Spark's traffic, so gradients travel "
            "through its shuffle"
        )
    return "collective", "several workers, and MPI is installed"
