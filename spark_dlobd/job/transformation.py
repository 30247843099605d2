"""What changes batches in training alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spark_dlobd.errors import ConfigurationError


@dataclass(frozen=True)
class Transformation:
    """A function of a batch, and how it is to be called.

    Attributes
    ----------
    function : callable
        Of the user.
    labels : bool
        Whether it takes and gives labels beside the inputs.
    seed : bool
        Whether it takes ``seed``, two numbers of one step.
    training : bool
        Whether it takes ``training``, which is True.
    traced : bool
        Whether TensorFlow can trace it; else it is called with numpy arrays.
    draws : bool
        Whether TensorFlow saw it draw random numbers that its seed does not decide.
    """

    function: Callable[..., Any]
    labels: bool = False
    seed: bool = False
    training: bool = False
    traced: bool = True
    draws: bool = False

    @property
    def name(self) -> str:
        """What the user calls it."""
        function = self.function
        return getattr(function, "__name__", None) or type(function).__name__

    def call(self, x: Any, y: Any, seed: Any) -> tuple[Any, Any]:
        """Inputs and labels of a batch, changed.

        Raises
        ------
        ConfigurationError
            If what takes labels does not give both.
        """
        by_name: dict[str, Any] = {"seed": seed} if self.seed else {}
        if self.training:
            by_name["training"] = True
        if not self.labels:
            return self.function(x, **by_name), y
        given = self.function(x, y, **by_name)
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            raise ConfigurationError(
                f"Expected (x, y), because it takes both. Got a value of type "
                f"{type(given).__name__}."
            )
        return given[0], given[1]
