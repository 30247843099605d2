"""What can be wrong with a row, as bits of an integer, and as an error message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spark_dlobd.data.cast import is_whole, limits
from spark_dlobd.data.columns import other_width
from spark_dlobd.errors import DataError
from spark_dlobd.job.columns import ColumnSpec, Role, TensorColumn

if TYPE_CHECKING:
    import pyarrow as pa

    from spark_dlobd.data.encoded import EncodedColumn

PROBLEMS = (
    *("null", "null_element", "not_finite", "length", "not_integer", "range", "negative"),
    "shape",
)
"""Problems of one column, in the order of the bits of its reasons."""

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
    word, bit : int
        Its place in the words of a row's reasons.
    stored : str
        Name of the stored column.
    tensor : TensorColumn or None
        What was expected; None for the indicator.
    scored : bool
        Whether it is about rows on their way through pandas, where a null among floats is NaN.
    """

    column: str
    role: str
    problem: str
    word: int
    bit: int
    stored: str = ""
    tensor: TensorColumn | None = None
    scored: bool = False

    @property
    def key(self) -> str:
        """Name of its count among the observed metrics."""
        return f"bad_{self.word}_{self.bit}"

    @property
    def words(self) -> str:
        """What is wrong, for people."""
        if self.is_flag or (self.problem == "range" and self.role == "indicator"):
            return _OUTSIDE["indicator"]
        if self.is_class:
            return _OUTSIDE["label"]
        if self.tensor is not None and self.tensor.stored == "image" and self.problem == "shape":
            return "no image that can be read"
        if self.tensor is not None and self.tensor.beside:
            if self.problem == "null_element":
                return _WORDS["null"]
            if self.problem == "not_finite" and self.scored:
                return f"null, {_WORDS['not_finite']}"
        return _WORDS[self.problem]

    @property
    def is_class(self) -> bool:
        """Whether it is about a label outside the classes."""
        known = self.tensor is not None and self.tensor.num_classes is not None
        return known and self.problem == "range" and not self.is_flag

    @property
    def is_flag(self) -> bool:
        """Whether it is about an element of a multi-label row that is neither 0 nor 1."""
        flags = self.tensor is not None and self.tensor.flags
        return flags and self.problem == "range"

    @property
    def use(self) -> str:
        """What the column is used for, for people."""
        part = self.tensor.part if self.tensor is not None else ""
        if not part:
            return self.role
        return f"input '{part}'" if self.role == "features" else f"{self.role} of '{part}'"


_COLUMNS_IN_A_WORD = 7
INDICATOR = (0, 8 * _COLUMNS_IN_A_WORD)
"""Word and shift of the validation indicator's reasons."""


def place_of(index: int) -> tuple[int, int]:
    """Word and shift of the reasons of the column at `index` of `ColumnSpec.all`."""
    return index // _COLUMNS_IN_A_WORD, 8 * (index % _COLUMNS_IN_A_WORD)


def words_of(columns: ColumnSpec) -> int:
    """Number of 64-bit words that hold what is wrong with a row of these columns."""
    return 1 + (len(columns.all) - 1) // _COLUMNS_IN_A_WORD


def all_checks(columns: ColumnSpec, indicator: str | None) -> tuple[Check, ...]:
    """Every problem that a row of these columns can have."""
    checks = []
    all_of = zip(columns.stored_names, columns.roles, columns.all, strict=True)
    for index, (stored, role, column) in enumerate(all_of):
        checks += _checks_of(place_of(index), stored, role, column)
    if indicator is not None:
        word, shift = INDICATOR
        checks += [
            Check(indicator, "indicator", problem, word, shift + PROBLEMS.index(problem))
            for problem in ("null", "range")
        ]
    return tuple(checks)


def _checks_of(
    place: tuple[int, int], stored: str, role: Role, column: TensorColumn
) -> list[Check]:
    word, shift = place
    return [
        Check(column.name, role, problem, word, shift + PROBLEMS.index(problem), stored, column)
        for problem in _possible(role, column)
    ]


def _possible(role: str, column: TensorColumn) -> tuple[str, ...]:
    if column.num_classes is not None and not column.shape:
        return ("null", "not_finite", "not_integer", "range")
    if role == "weight":
        return ("null", "not_finite", "negative")
    if column.stored == "image":
        return ("null", "shape")
    length = "shape" if column.nested else "length"
    if column.dtype == "string":
        return ("null", "null_element", length)
    whole = ("not_integer", "range") if is_whole(column.dtype) else ()
    if column.flags:
        return ("null", "null_element", "not_finite", length, "range")
    return ("null", "null_element", "not_finite", length, *whole)


def invalid_features_error(
    found: Sequence[tuple[TensorColumn, EncodedColumn]], alone: bool = False
) -> DataError:
    """Name what is wrong with the features of a batch, in the words of `invalid_rows_error`.

    Parameters
    ----------
    found : sequence of (TensorColumn, EncodedColumn)
        For each input what was expected, and what came.
    alone : bool, default False
        Whether it is one row that was given by itself, which nobody can leave out.
    """
    checks: list[Check] = []
    counts: dict[str, Any] = {}
    bad: Any = False
    for index, (column, made) in enumerate(found):
        own = [
            replace(check, scored=True)
            for check in _checks_of((index, 0), f"features_{index}", "features", column)
        ]
        counts |= {check.key: int((made.reasons >> check.bit & 1).sum()) for check in own}
        counts[f"lengths_features_{index}"] = _listed(made.lengths)
        counts[f"places_features_{index}"] = _listed(made.places)
        counts[f"words_features_{index}"] = _listed(made.words)
        checks += own
        bad = bad | (made.reasons != 0)
    total = len(found[0][1].reasons)
    head = "This row is not valid" if alone else _head(int(bad.sum()), total, "rows of this batch")
    return _error(checks, counts, total, head, "" if alone else _LEAVE_OUT)


def _listed(seen: pa.Array | None) -> str:
    values = set() if seen is None else set(seen.drop_null().to_pylist())
    return ", ".join(map(str, sorted(values)[:10]))


def invalid_rows_error(
    checks: tuple[Check, ...], counts: Mapping[str, Any], total: int, bad: int
) -> DataError:
    """Name every bad column with counts and reasons, and say what to do.

    Parameters
    ----------
    checks : tuple of Check
        From `all_checks`.
    counts : mapping
        The observed metrics.
    total, bad : int
        All rows, and those with at least one problem.
    """
    head = _head(bad, total, "rows")
    if apart := counts.get("bad_apart"):
        head += f", {apart} of them in validationData"
    return _error(checks, counts, total, head, _LEAVE_OUT)


_LEAVE_OUT = "Clean these rows, or leave them out with handleInvalid='skip'."


def _head(bad: int, total: int, rows: str) -> str:
    return f"{bad} of {total} {rows} {'is' if bad == 1 else 'are'} not valid"


def _error(
    checks: Sequence[Check], counts: Mapping[str, Any], total: int, head: str, fix: str
) -> DataError:
    lines = []
    for check in checks:
        found = counts[check.key]
        if found:
            lines.append(f"  '{check.column}' ({check.use}): {found} {check.words}")
            lines[-1] += _detail(check, counts)
    for check in checks:
        seen = counts.get(f"lengths_{check.stored}") or ""
        # all rows alike: it is the network that does not fit them
        all_alike = check.problem == "length" and counts[check.key] == total and seen.isdecimal()
        if all_alike and check.tensor is not None:
            fix = other_width(int(seen), check.tensor, check.role)
    if any(check.is_class and counts[check.key] for check in checks):
        fix += (
            " For labels outside the classes: index them with StringIndexer, or give the model "
            "one unit for each class."
        )
    if any(check.is_flag and counts[check.key] for check in checks):
        fix += (
            " A binary loss over several units learns for each label whether it is true; "
            "problemType='regression' learns other numbers with it."
        )
    return DataError("\n".join([f"{head}:", *lines, *([fix] if fix else [])]))


def _detail(check: Check, counts: Mapping[str, Any]) -> str:
    column = check.tensor
    if column is None:
        return ""
    if check.problem == "length":
        seen = counts[f"lengths_{check.stored}"]
        elements = "element" if column.size == 1 else "elements"
        return f" (expected {column.size} {elements} for shape {column.shape}, seen {seen})"
    if column.stored == "image" and check.problem == "shape":
        return f": {counts[f'words_{check.stored}']}"
    if check.problem == "shape":
        steps = f"arrays of {column.step_size} elements" if column.padding is not None else ""
        return f" (expected {steps or f'shape {column.shape}'})"
    if check.is_class or check.is_flag:
        classes = column.num_classes or 0
        expected = "0 or 1" if check.is_flag else f"0 to {classes - 1} for {classes} classes"
        low, high = counts[f"least_{check.stored}"], counts[f"most_{check.stored}"]
        return f" (expected {expected}, seen {low:g} to {high:g})"
    places = counts.get(f"places_{check.stored}") or ""
    where = ""
    if places:
        names = dict.fromkeys(column.source_of(int(place)) for place in places.split(", "))
        where = f" in {', '.join(map(repr, names))}"
    if check.problem in ("range", "not_integer") and column.num_classes is None:
        least, most = limits(column.dtype)
        return f"{where} (the model takes {column.dtype}: whole numbers from {least} to {most})"
    return where
