"""Backends by name: refuses silent overrides, lists what is valid, never guesses."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from spark_dlobd.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.backends.base import Backend

_BACKENDS: dict[str, str] = {}


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
register_backend("horovod", "spark_dlobd.backends.horovod:HorovodConfig")
register_backend(
    "parameter_server", "spark_dlobd.backends.parameter_server.config:ParameterServerConfig"
)
register_backend("shuffle", "spark_dlobd.backends.shuffle.backend:ShuffleConfig")


def backend_names() -> tuple[str, ...]:
    """Names of all registered backends, sorted."""
    return tuple(sorted(_BACKENDS))


def _config_class(name: str) -> Any:
    if name not in _BACKENDS:
        raise ConfigurationError(
            f"backend must be 'auto' or one of {', '.join(map(repr, backend_names()))}, "
            f"or a config object. Got {name!r}."
        )
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
        if isinstance(value, _config_class(name)):
            return {"name": name, **dataclasses.asdict(value)}
    raise ConfigurationError(
        f"backend must be 'auto', one of {', '.join(map(repr, backend_names()))}, or a config "
        f"object such as HorovodConfig(). Got {value!r} of type {type(value).__name__}."
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
            f"Its options are {', '.join(sorted(known))}."
        )
    return config_class(**options)


def choose_backend(
    value: str | dict[str, Any], spark: SparkSession, world_size: int
) -> tuple[Backend, str]:
    """Return the backend to use and why.

    The rule of ``"auto"``: with one worker, ``local``. With several, ``shuffle``, which
    needs nothing but Spark, unless ``horovod`` is installed on the driver: then this
    returns ``horovod``, and `preparation.decide` compares the two once the rows are
    counted. Any other value means exactly that backend.
    """
    config = from_param(value)
    if config != "auto":
        return config.create(), "chosen by the user"
    if world_size == 1:
        return _config_class("local")().create(), "auto: one worker needs no communication"
    if importlib.util.find_spec("horovod") is not None:
        return _config_class("horovod")().create(), "auto: several workers, Horovod is installed"
    return _config_class("shuffle")().create(), (
        "auto: several workers and Horovod is not installed, so gradients travel through "
        "Spark's shuffle"
    )
