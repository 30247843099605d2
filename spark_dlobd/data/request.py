"""What of a DataFrame is to be written."""

from __future__ import annotations

from dataclasses import dataclass

from spark_dlobd.data.split import ValidationSplit
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.job.columns import ColumnSpec, InvalidRows

ROW_GROUP_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Request:
    """What is to be written; equal requests on equal rows give equal data."""

    columns: ColumnSpec
    cache_dir: str | None
    validation: ValidationSplit | None
    handle_invalid: InvalidRows
    row_group_bytes: int = ROW_GROUP_BYTES

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.handle_invalid not in ("error", "skip"):
            raise ConfigurationError(
                f"handleInvalid must be 'error' or 'skip'. Got {self.handle_invalid!r}."
            )
        if self.row_group_bytes < 1:
            raise ConfigurationError(
                f"row_group_bytes must be an int of at least 1. Got {self.row_group_bytes}."
            )

    @property
    def indicator(self) -> str | None:
        """Column that marks validation rows."""
        return None if self.validation is None else self.validation.indicator

    @property
    def rows_per_file(self) -> int:
        """Rows of about `row_group_bytes`."""
        sizes = [column.row_bytes + 4 for column in self.columns.all]
        return max(1, self.row_group_bytes // sum(sizes))
