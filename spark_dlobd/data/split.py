"""Which rows are for validation."""

from __future__ import annotations

from dataclasses import dataclass

from spark_dlobd.errors import ConfigurationError


@dataclass(frozen=True)
class ValidationSplit:
    """Validation rows: those that a column marks, or a random fraction.

    Attributes
    ----------
    indicator : str or None
        Boolean column, true for validation rows, or a number that is 1 for them and else 0.
    fraction : float or None
        Share of the rows, above 0 and below 1.
    seed : int
        Of the draw for `fraction`.
    apart : bool
        Whether `indicator` marks the rows of a DataFrame of their own, `validationData`.

    Raises
    ------
    ConfigurationError
        Not exactly one of `indicator` and `fraction` is given, or it is out of range.
    """

    indicator: str | None = None
    fraction: float | None = None
    seed: int = 0
    apart: bool = False

    def __post_init__(self) -> None:
        """Check that there is exactly one rule."""
        if (self.indicator is None) == (self.fraction is None):
            raise ConfigurationError(
                f"Give either an indicator column or a fraction for validation. "
                f"Got indicator={self.indicator!r} and fraction={self.fraction!r}."
            )
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise ConfigurationError(
                f"The validation fraction must be a float above 0 and below 1. Got {self.fraction}."
            )
