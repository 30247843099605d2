"""What Params and options may be: one phrasing for every value that does not fit."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from spark_dlobd.errors import ConfigurationError, ConfigurationTypeError
from spark_dlobd.wording import float_range, int_range

T = TypeVar("T")
Given = ParamSpec("Given")


class _Converter:
    """A converter that pickles as the call that made it, because a closure does not pickle."""

    def __init__(
        self, factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._made_by = (factory, args, kwargs)
        self._convert = factory.__wrapped__(*args, **kwargs)  # type: ignore[attr-defined]

    def __call__(self, value: Any) -> Any:
        return self._convert(value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Converter, self._made_by


def picklable(factory: Callable[Given, Callable[[Any], T]]) -> Callable[Given, Callable[[Any], T]]:
    """Let what a factory of converters returns be pickled, and with it Params and stages."""

    @functools.wraps(factory)
    def make(*args: Given.args, **kwargs: Given.kwargs) -> Callable[[Any], T]:
        return _Converter(make, args, kwargs)

    return make


def reject(name: str, expected: str, value: Any) -> ConfigurationError:
    """Error of a Param whose value does not fit."""
    return ConfigurationError(f"{name} must be {expected}. Got {value!r}.")


def reject_type(name: str, expected: str, value: Any) -> ConfigurationTypeError:
    """Error of a Param whose value is not even of the right type."""
    return ConfigurationTypeError(f"{name} must be {expected}. Got {value!r}.")


@picklable
def optional(converter: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """Let None through."""
    return lambda value: None if value is None else converter(value)


@picklable
def integer(name: str, low: int, high: int | None = None) -> Callable[[Any], int]:
    """An int of ``[low, high]``; a float with an integral value counts."""
    expected = int_range(low, high)

    def convert(value: Any) -> int:
        if not _is_number(value) or not math.isfinite(value) or int(value) != value:
            raise reject_type(name, expected, value)
        if value < low or (high is not None and value > high):
            raise reject(name, expected, value)
        return int(value)

    return convert


@picklable
def integer_or(name: str, low: int, high: int, word: str) -> Callable[[Any], int | str]:
    """An int of ``[low, high]`` or the one `word`."""
    expected = f"{word!r} or {int_range(low, high)}"
    whole = integer(name, low, high)

    def convert(value: Any) -> int | str:
        if isinstance(value, str) and value != word:
            raise reject(name, expected, value)
        try:
            return word if value == word else whole(value)
        except ConfigurationError as error:
            raise type(error)(f"{name} must be {expected}. Got {value!r}.") from None

    return convert


@picklable
def number(
    name: str, low: float, high: float = math.inf, *, open_low: bool = False
) -> Callable[[Any], float]:
    """A float of ``[low, high)``, or of ``(low, high)`` with `open_low`."""
    expected = float_range(low, high, open_low=open_low)

    def convert(value: Any) -> float:
        if not _is_number(value):
            raise reject_type(name, expected, value)
        if not math.isfinite(value) or value < low or value >= high or (open_low and value == low):
            raise reject(name, expected, value)
        return float(value)

    return convert


@picklable
def boolean(name: str) -> Callable[[Any], bool]:
    """A bool."""

    def convert(value: Any) -> bool:
        if type(value).__name__ not in ("bool", "bool_"):
            raise reject_type(name, "True or False", value)
        return bool(value)

    return convert


@picklable
def text(name: str) -> Callable[[Any], str]:
    """A str that is not empty."""

    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise reject_type(name, "a str that is not empty", value)
        if not value:
            raise reject(name, "a str that is not empty", value)
        return value

    return convert


@picklable
def names(name: str) -> Callable[[Any], list[str]]:
    """A list of strings that are not empty, each once."""
    expected = "a list of names of columns, each once"

    def convert(value: Any) -> list[str]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise reject_type(name, expected, value)
        if not all(isinstance(item, str) for item in value):
            raise reject_type(name, expected, value)
        if not value or not all(value) or len(set(value)) < len(value):
            raise reject(name, expected, value)
        return list(value)

    return convert


@picklable
def by_name(name: str, of: str, each: Callable[[Any], T]) -> Callable[[Any], dict[str, T]]:
    """A dict of names of inputs, outputs or columns (`of`) to what `each` takes."""
    expected = f"a dict of {of}"

    def convert(value: Any) -> dict[str, T]:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise reject_type(name, expected, value)
        if not value or not all(value):
            raise reject(name, expected, dict(value))
        return {key: each(item) for key, item in value.items()}

    return convert


@picklable
def choice(name: str, *allowed: str) -> Callable[[Any], str]:
    """One of `allowed`."""
    expected = f"one of {', '.join(map(repr, allowed))}"

    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise reject_type(name, expected, value)
        if value not in allowed:
            raise reject(name, expected, value)
        return str(value)

    return convert


@picklable
def class_weights(name: str) -> Callable[[Any], dict[int, float]]:
    """A dict of class index to weight; JSON's string keys become ints again."""
    expected = "a dict of class index (an int of at least 0) to weight (a float of at least 0)"

    def convert(value: Any) -> dict[int, float]:
        if not isinstance(value, Mapping):
            raise reject_type(name, expected, value)
        try:
            pairs = {int(key): float(weight) for key, weight in value.items()}
        except (TypeError, ValueError) as error:
            raise reject(name, expected, value) from error
        cut = [key for key in value if not isinstance(key, str) and int(key) != key]
        if cut or any(key < 0 or not 0 <= weight < math.inf for key, weight in pairs.items()):
            raise reject(name, expected, value)
        return pairs

    return convert


def _is_number(value: Any) -> bool:
    import numbers

    return isinstance(value, numbers.Real) and not isinstance(value, bool)
