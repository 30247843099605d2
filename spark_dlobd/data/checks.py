"""What can be wrong with a row, as bits of an integer, and as an error message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spark_dlobd.data.cast import is_whole, limits
from spark_dlobd.data.columns import other_width
from spark_dlobd.errors import DataError
from spark_dlobd.job.columns import ColumnSpec, TensorColumn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROBLEMS = (
    *("null", "null_element", "not_finite", "length", "not_integer", "range", "negative"),
    "shape",
)
"""Problems of one column; bit ``column * 8 + problem`` of a row's reason."""

_WORDS = {
    "null": "null",
    "null_element": "null inside the array",
    "not_finite": "NaN or infinite",
    "length": "wrong length",
    "not_integer": "not a whole number",
    "range": "out of range",
    "negative": "negative",
    "shape": "nested in another shape",
}
_OUTSIDE = {"label": "outside the classes", "indicator": "neither 0 nor 1"}


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

    @property
    def words(self) -> str:
        """What is wrong, for people."""
        if self.problem == "range" and self.role in _OUTSIDE:
            return _OUTSIDE[self.role]
        return _WORDS[self.problem]

    @property
    def is_class(self) -> bool:
        """Whether it is about a label outside the classes."""
        return self.role == "label" and self.problem == "range"


def bit(index: int, problem: str) -> int:
    """Bit of `problem` for the column at `index` (features, label, weight, indicator)."""
    return index * 8 + PROBLEMS.index(problem)


def all_checks(columns: ColumnSpec, indicator: str | None) -> tuple[Check, ...]:
    """Every problem that a row of these columns can have."""
    checks = []
    for index, (role, column) in enumerate(_by_role(columns).items()):
        checks += _checks_of(index, role, column)
    if indicator is not None:
        checks += [
            Check(indicator, "indicator", problem, bit(INDICATOR, problem))
            for problem in ("null", "range")
        ]
    return tuple(checks)


def _checks_of(index: int, role: str, column: TensorColumn) -> list[Check]:
    return [
        Check(column.name, role, problem, bit(index, problem))
        for problem in _possible(role, column)
    ]


def _by_role(columns: ColumnSpec) -> dict[str, TensorColumn]:
    return dict(zip(("features", "label", "weight"), columns.all, strict=False))


INDICATOR = 3
"""Place of the validation indicator among the columns."""


def _possible(role: str, column: TensorColumn) -> tuple[str, ...]:
    if column.num_classes is not None:
        return ("null", "not_finite", "not_integer", "range")
    if role == "weight":
        return ("null", "not_finite", "negative")
    whole = ("not_integer", "range") if is_whole(column.dtype) else ()
    length = "shape" if column.nested else "length"
    return ("null", "null_element", "not_finite", length, *whole)


def invalid_features_error(
    reasons: NDArray[np.int64], lengths: Sequence[int], column: TensorColumn, alone: bool = False
) -> DataError:
    """Name what is wrong with the features of a batch, in the words of `invalid_rows_error`.

    Parameters
    ----------
    reasons : ndarray of int64 of shape (rows,)
        Bits of what is wrong with each row, 0 for a good one.
    lengths : sequence of int
        Wrong lengths that were seen.
    column : TensorColumn
        What was expected.
    alone : bool, default False
        Whether it is one row that was given by itself, which nobody can leave out.
    """
    checks = _checks_of(0, "features", column)
    counts = {check.key: int((reasons >> check.bit & 1).sum()) for check in checks}
    seen = {"lengths_features": ", ".join(map(str, sorted(set(lengths))[:10]))}
    total, bad = len(reasons), int((reasons != 0).sum())
    head = "This row is not valid" if alone else _head(bad, total, "rows of this batch")
    fix = "" if alone else _LEAVE_OUT
    return _error(checks, {"features": column}, {**counts, **seen}, total, head, fix)


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
    head = _head(bad, total, "rows")
    return _error(checks, _by_role(columns), counts, total, head, _LEAVE_OUT)


_LEAVE_OUT = "Clean these rows, or leave them out with handleInvalid='skip'."


def _head(bad: int, total: int, rows: str) -> str:
    return f"{bad} of {total} {rows} {'is' if bad == 1 else 'are'} not valid"


def _error(
    checks: Sequence[Check],
    by_role: Mapping[str, TensorColumn],
    counts: Mapping[str, Any],
    total: int,
    head: str,
    fix: str,
) -> DataError:
    lines = []
    for check in checks:
        found = counts[check.key]
        if found:
            detail = _detail(check, by_role.get(check.role), counts)
            lines.append(f"  '{check.column}' ({check.role}): {found} {check.words}{detail}")
    for check in checks:
        seen = counts.get(f"lengths_{check.role}") or ""
        # all rows alike: it is the network that does not fit them
        if check.problem == "length" and counts[check.key] == total and seen.isdecimal():
            fix = other_width(int(seen), by_role[check.role], check.role)
    if any(check.is_class and counts[check.key] for check in checks):
        fix += (
            " For labels outside the classes: index them with StringIndexer, or give the model "
            "one unit for each class."
        )
    return DataError("\n".join([f"{head}:", *lines, *([fix] if fix else [])]))


def _detail(check: Check, column: TensorColumn | None, counts: Mapping[str, Any]) -> str:
    if column is None:
        return ""
    if check.problem == "length":
        seen = counts[f"lengths_{check.role}"]
        elements = "element" if column.size == 1 else "elements"
        return f" (expected {column.size} {elements} for shape {column.shape}, seen {seen})"
    if check.problem == "shape":
        return f" (expected shape {column.shape})"
    if check.is_class:
        low, high = counts["label_min"], counts["label_max"]
        return (
            f" (expected 0 to {(column.num_classes or 0) - 1} for {column.num_classes} classes, "
            f"seen {low:g} to {high:g})"
        )
    if check.problem in ("range", "not_integer") and column.num_classes is None:
        least, most = limits(column.dtype)
        return f" (the model takes {column.dtype}: whole numbers from {least} to {most})"
    return ""
