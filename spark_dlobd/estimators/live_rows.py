"""A DataFrame beside the Params of a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class LiveRows:
    """A DataFrame that a stage holds: shared by its copies, never pickled."""

    def __init__(self, rows: DataFrame | None = None) -> None:
        self.rows = rows

    def __deepcopy__(self, memo: Any) -> LiveRows:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return LiveRows, ()
