"""What can be wrong with a row, as bits of an integer, and as an error message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spark_dlobd.errors import DataError
from spark_dlobd.training.job import ColumnSpec, TensorColumn

PROBLEMS = ("null", "null_element", "not_finite", "length", "not_integer", "range", "negative")
"""Problems of one column; bit ``column * 8 + problem`` of a row's reason."""

_WORDS = {
    "null": "null",
    "null_element": "null inside the array",
    "not_finite": "NaN or infinite",
    "length": "wrong length",
    "not_integer": "not a whole number",
    "range": "outside the classes",
    "negative": "negative",
}


@dataclass(frozen=True)
class Check:
    """One problem of one column.

    Attributes
    ----------
    column : str
        The DataFrame column.
    role : {"features", "label", "weight", "indicator"}
        What the column is used for.
    problem : str
        One of `PROBLEMS`.
    bit : int
        Its place in a row's reason.
    """

    column: str
    role: str
    problem: str
    bit: int

    @property
    def key(self) -> str:
        """Name of its count among the observed metrics."""
        return f"bad_{self.bit}"


def bit(index: int, problem: str) -> int:
    """Bit of `problem` for the column at `index` (features, label, weight, indicator)."""
    return index * 8 + PROBLEMS.index(problem)


def all_checks(columns: ColumnSpec, indicator: str | None) -> tuple[Check, ...]:
    """Every problem that a row of these columns can have."""
    checks = []
    for index, (role, column) in enumerate(
        zip(("features", "label", "weight"), columns.all, strict=False)
    ):
        checks += [
            Check(column.name, role, problem, bit(index, problem))
            for problem in _possible(role, column)
        ]
    if indicator is not None:
        checks.append(Check(indicator, "indicator", "null", bit(INDICATOR, "null")))
    return tuple(checks)


INDICATOR = 3
"""Place of the validation indicator among the columns."""


def _possible(role: str, column: TensorColumn) -> tuple[str, ...]:
    if column.num_classes is not None:
        return ("null", "not_finite", "not_integer", "range")
    if role == "weight":
        return ("null", "not_finite", "negative")
    return ("null", "null_element", "not_finite", "length")


def invalid_rows_error(
    checks: tuple[Check, ...], columns: ColumnSpec, counts: Mapping[str, Any], total: int, bad: int
) -> DataError:
    """Name every bad column with counts and reasons, and say what to do.

    Parameters
    ----------
    checks : tuple of Check
        From `all_checks`.
    columns : ColumnSpec
        What was expected.
    counts : mapping
        The observed metrics.
    total, bad : int
        All rows, and those with at least one problem.
    """
    by_role = dict(zip(("features", "label", "weight"), columns.all, strict=False))
    lines = []
    for check in checks:
        found = counts[check.key]
        if found:
            detail = _detail(check, by_role.get(check.role), counts)
            lines.append(
                f"  '{check.column}' ({check.role}): {found} {_WORDS[check.problem]}{detail}"
            )
    fix = "Clean these rows, or leave them out with handleInvalid='skip'."
    if any(check.problem == "range" and counts[check.key] for check in checks):
        fix += (
            " For labels outside the classes: index them with StringIndexer, or give the model "
            "one unit for each class."
        )
    verb = "is" if bad == 1 else "are"
    return DataError(f"{bad} of {total} rows {verb} not valid:\n" + "\n".join(lines) + f"\n{fix}")


def _detail(check: Check, column: TensorColumn | None, counts: Mapping[str, Any]) -> str:
    if column is None:
        return ""
    if check.problem == "length":
        seen = counts[f"lengths_{check.role}"]
        elements = "element" if column.size == 1 else "elements"
        return f" (expected {column.size} {elements} for shape {column.shape}, seen {seen})"
    if check.problem == "range":
        low, high = counts["label_min"], counts["label_max"]
        return (
            f" (expected 0 to {(column.num_classes or 0) - 1} for {column.num_classes} classes, "
            f"seen {low:g} to {high:g})"
        )
    return ""
