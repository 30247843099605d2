"""Type converters of Params: one phrasing for every value that does not fit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from spark_dlobd.errors import ConfigurationError, ModelError
from spark_dlobd.training.target import Target

T = TypeVar("T")


def reject(name: str, expected: str, value: Any) -> ConfigurationError:
    """Error of a Param whose value does not fit."""
    return ConfigurationError(f"{name} must be {expected}. Got {value!r}.")


def optional(converter: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """Let None through."""
    return lambda value: None if value is None else converter(value)


def integer(name: str, low: int, high: int | None = None) -> Callable[[Any], int]:
    """An int of ``[low, high]``; a float with an integral value counts."""
    expected = f"an int in [{low}, {'inf)' if high is None else f'{high}]'}"

    def convert(value: Any) -> int:
        if not _is_number(value) or not math.isfinite(value) or int(value) != value:
            raise reject(name, expected, value)
        if value < low or (high is not None and value > high):
            raise reject(name, expected, value)
        return int(value)

    return convert


def number(
    name: str, low: float, high: float = math.inf, *, open_low: bool = False
) -> Callable[[Any], float]:
    """A float of ``[low, high)``, or of ``(low, high)`` with `open_low`."""
    expected = f"a float in {'(' if open_low else '['}{low:g}, {high:g})"

    def convert(value: Any) -> float:
        if not _is_number(value) or not math.isfinite(value):
            raise reject(name, expected, value)
        if value < low or value >= high or (open_low and value == low):
            raise reject(name, expected, value)
        return float(value)

    return convert


def boolean(name: str) -> Callable[[Any], bool]:
    """A bool."""

    def convert(value: Any) -> bool:
        if type(value).__name__ not in ("bool", "bool_"):
            raise reject(name, "True or False", value)
        return bool(value)

    return convert


def text(name: str) -> Callable[[Any], str]:
    """A str that is not empty."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise reject(name, "a str that is not empty", value)
        return value

    return convert


def choice(name: str, *allowed: str) -> Callable[[Any], str]:
    """One of `allowed`."""
    expected = f"one of {', '.join(map(repr, allowed))}"

    def convert(value: Any) -> str:
        if value not in allowed:
            raise reject(name, expected, value)
        return str(value)

    return convert


def class_weights(name: str) -> Callable[[Any], dict[int, float]]:
    """A dict of class index to weight; JSON's string keys become ints again."""
    expected = "a dict of class index (int in [0, inf)) to weight (float in [0, inf))"

    def convert(value: Any) -> dict[int, float]:
        if not isinstance(value, Mapping):
            raise reject(name, expected, value)
        try:
            pairs = {int(key): float(weight) for key, weight in value.items()}
        except (TypeError, ValueError) as error:
            raise reject(name, expected, value) from error
        if any(key < 0 or not 0 <= weight < math.inf for key, weight in pairs.items()):
            raise reject(name, expected, value)
        return pairs

    return convert


def keras_config(name: str) -> Callable[[Any], Any]:
    """A Keras name, a serialized config, or an object that becomes one."""
    expected = "a Keras name, a config dict, or a Keras object"

    def convert(value: Any) -> Any:
        if isinstance(value, str) and value:
            return value
        if isinstance(value, Mapping) or (
            not isinstance(value, (str, type)) and (hasattr(value, "get_config") or callable(value))
        ):
            return _serialized(name, value)
        raise reject(name, expected, value)

    return convert


def keras_configs(name: str) -> Callable[[Any], list[Any]]:
    """A list of what `keras_config` takes."""
    convert_one = keras_config(name)

    def convert(value: Any) -> list[Any]:
        if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
            raise reject(name, "a list of Keras names, config dicts or Keras metrics", value)
        return [convert_one(item) for item in value]

    return convert


def backend_config(value: Any) -> Any:
    """A backend's name, or its config object as JSON-able data."""
    if isinstance(value, str):
        return text("backend")(value)
    from spark_dlobd.backends import registry

    return registry.to_param(value)


def target(value: Any) -> str:
    """A metric, a comparison and a number, as the one way to write them."""
    return str(Target.parse(value))


def checked_callbacks(value: Any) -> tuple[Any, ...]:
    """Keras callbacks as a tuple; they are live objects, so this is no Param."""
    if value is None or value == () or value == []:
        return ()
    import keras

    callbacks = tuple(value) if isinstance(value, Sequence) else (value,)
    is_callback = [isinstance(item, keras.callbacks.Callback) for item in callbacks]
    if not isinstance(value, Sequence) or not all(is_callback):
        raise reject("callbacks", "a sequence of keras.callbacks.Callback", value)
    return callbacks


def _is_number(value: Any) -> bool:
    import numbers

    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _serialized(name: str, value: Any) -> Any:
    import keras

    from spark_dlobd.training.compile_args import check_decay
    from spark_dlobd.training.custom_objects import LAMBDA_REFUSED, referenced_objects

    if getattr(value, "__name__", None) == "<lambda>":
        raise ModelError(LAMBDA_REFUSED)
    try:
        if isinstance(value, Mapping):
            return json.loads(json.dumps(dict(value)))
        if name == "optimizer":
            check_decay(value)
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(value)))
    except (TypeError, NotImplementedError) as error:
        raise ConfigurationError(
            f"{name} cannot be written as JSON: {error}. get_config() must return numbers, "
            "strings, lists and dicts."
        ) from error
    referenced_objects([config])
    return config
