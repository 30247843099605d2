"""When a training has reached what was wanted. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from spark_dlobd.errors import ConfigurationError

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FORM = re.compile(rf"\s*(\w[\w./-]*)\s*(>=|<=|>|<)\s*({_NUMBER})\s*")


@dataclass(frozen=True)
class Target:
    """A metric and the value it is to reach.

    Attributes
    ----------
    metric : str
        Name in Keras's logs, e.g. ``"val_accuracy"``.
    comparison : {">=", "<=", ">", "<"}
        On which side of `value` the target lies.
    value : float
        What to reach.

    Examples
    --------
    >>> Target.parse("val_accuracy >= 0.985").reached(0.99)
    True
    """

    metric: str
    comparison: str
    value: float

    @classmethod
    def parse(cls, text: object) -> Target:
        """Read e.g. ``"loss < 0.1"``.

        Raises
        ------
        ConfigurationError
            If `text` has another form.
        """
        found = _FORM.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ConfigurationError(
                "stopWhen must be a metric, one of >=, >, <=, < and a number, for example "
                f"'val_accuracy >= 0.985' or 'loss < 0.1'. Got {text!r}."
            )
        return cls(found[1], found[2], float(found[3]))

    def reached(self, value: float) -> bool:
        """Whether `value` is good enough; NaN never is."""
        return _COMPARISONS[self.comparison](value, self.value)

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.value:g}"
