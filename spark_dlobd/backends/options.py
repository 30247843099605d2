"""Options of backends, checked as Params are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from spark_dlobd import conversion as to
from spark_dlobd.errors import ConfigurationError


def check_numbers(
    config: Any, at_least: Mapping[str, float], above: Mapping[str, float] | None = None
) -> None:
    """Check fields of a frozen dataclass and store them as plain ints and floats.

    Parameters
    ----------
    config : dataclass
        The options. The annotation of a field says whether it is an int or a float, and
        whether it may be None.
    at_least, above : mapping of str to float
        Names of fields and their lowest value, or the value that is too low.

    Raises
    ------
    ConfigurationError
        If a value does not fit.
    """
    kinds = {field.name: str(field.type) for field in dataclasses.fields(config)}
    for name, low in {**at_least, **(above or {})}.items():
        convert: Any = to.number(name, low, open_low=name not in at_least)
        if kinds[name].startswith("int"):
            convert = to.integer(name, int(low))
        value = getattr(config, name)
        if value is not None or "None" not in kinds[name]:
            object.__setattr__(config, name, convert(value))


def check_choices(config: Any, choices: Mapping[str, tuple[Any, ...]]) -> None:
    """Check fields that take one of a few values.

    Parameters
    ----------
    config : dataclass
        The options.
    choices : mapping of str to tuple
        What each field may be.

    Raises
    ------
    ConfigurationError
        If a value is none of them.
    """
    for name, values in choices.items():
        if getattr(config, name) not in values:
            raise ConfigurationError(
                f"{name} must be one of {', '.join(map(repr, values))}. "
                f"Got {getattr(config, name)!r}."
            )


def check_ports(ports: Any) -> tuple[int, int] | None:
    """Return the first and the last port of a range.

    Raises
    ------
    ConfigurationError
        If it is neither None nor a range of ports that users may listen on.

    Examples
    --------
    >>> check_ports([40000, 40009])
    (40000, 40009)
    """
    if ports is None:
        return None
    try:
        first, last = (int(port) for port in ports)
    except (TypeError, ValueError):
        first, last = 0, 0
    if not 1024 <= first <= last <= 65535:
        raise ConfigurationError(
            "port_range must be None or (first, last) with 1024 <= first <= last <= 65535. "
            f"Got {ports!r}."
        )
    return first, last
