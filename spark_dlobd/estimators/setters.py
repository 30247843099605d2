"""``setX`` of a Param, made from what the Param already says."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, get_args

from pyspark.ml.param import Param, Params

T = TypeVar("T")
P = TypeVar("P", bound=Params)
_Value = TypeVar("_Value", contravariant=True)
_Stage = TypeVar("_Stage", covariant=True)


class BoundSetter(Protocol[_Value, _Stage]):
    """``stage.setX``, for type checkers: takes the value and returns the stage."""

    def __call__(self, value: _Value) -> _Stage:
        """Set the value."""


class Setter(Generic[T]):
    """A line beside ``getX`` that becomes the method ``setX``.

    Type checkers see ``(value: T) -> the type of the stage``. At run time the class
    gets an ordinary method instead, with the Param's type and sentence, so that
    ``help``, ``inspect`` and ``pickle`` find what they expect.

    Parameters
    ----------
    param : Param
        What is set. Its ``T`` is the type of the value, unless the line is annotated
        with another one: ``setLoss: Setter[Any] = Setter(loss)``.

    Examples
    --------
    >>> class HasRounds(Params):
    ...     rounds: Param[int] = Param(Params._dummy(), "rounds", "rounds to go. Default 1.")
    ...     setRounds = Setter(rounds)
    >>> print(inspect.signature(HasRounds.setRounds), HasRounds.setRounds.__doc__.splitlines()[0])
    (self: ~P, value: int) -> ~P Set rounds: rounds to go. Default 1.
    """

    def __init__(self, param: Param[T]) -> None:
        self._param = param

    def __set_name__(self, owner: type[Params], name: str) -> None:
        """Put the method in the place of this line."""
        setattr(owner, name, _method(owner, name, self._param))

    if TYPE_CHECKING:

        def __get__(self, stage: P, owner: type[P]) -> BoundSetter[T, P]: ...


def _method(owner: type[Params], name: str, param: Param[Any]) -> Callable[[P, Any], P]:
    def method(self: P, value: Any) -> P:
        return self._set(**{param.name: value})

    method.__name__ = name
    method.__qualname__ = f"{owner.__qualname__}.{name}"
    method.__module__ = owner.__module__
    method.__annotations__ = {"self": P, "value": _value_type(owner, name, param), "return": P}
    method.__doc__ = (
        f"Set {param.name}: {param.doc}\n\n"
        "Returns the stage itself.\n\n"
        "Raises\n------\nConfigurationError\n    If the value does not fit.\n"
    )
    return method


def _value_type(owner: type[Params], name: str, param: Param[Any]) -> Any:
    for wanted in (name, param.name):
        for base in owner.__mro__:
            if wanted in inspect.get_annotations(base):
                return get_args(inspect.get_annotations(base, eval_str=True)[wanted])[0]
    return Any
