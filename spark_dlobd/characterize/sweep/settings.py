"""Settings of a sweep as they are typed. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spark_dlobd.errors import ConfigurationError


def as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    """Turn a value or list of values of the attribute `name` into a tuple."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if name == "link_mbit":
        return tuple(None if item == "none" else item for item in values)
    # YAML reads an unquoted null where people mean the word.
    return tuple("none" if name == "compression" and item is None else item for item in values)


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Turn ``["workers=1,2"]`` into ``{"workers": [1, 2]}``; ``paths=mnist:/data`` is a dict."""
    found: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key or not text:
            raise ConfigurationError(
                f"A setting must look like key=value or key=value,value. Got {setting!r}."
            )
        if key == "name":
            found[key] = text
        elif key == "paths":
            found[key] = dict(_path(item) for item in text.split(","))
        else:
            items = [_value(item) for item in text.split(",")]
            found[key] = items if len(items) > 1 else items[0]
    return found


def _path(text: str) -> tuple[str, str]:
    name, separator, path = text.partition(":")
    if not separator:
        raise ConfigurationError(f"paths must look like mnist:/data/mnist. Got {text!r}.")
    return name, path


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
