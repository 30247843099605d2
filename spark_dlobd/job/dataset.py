"""The reference to materialized data that travels to the workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spark_dlobd.job.columns import ColumnSpec

Split = Literal["train", "validation"]
ReaderName = Literal["petastorm", "pyarrow"]


@dataclass(frozen=True)
class RowGroup:
    """One Parquet file that holds exactly one row group.

    Attributes
    ----------
    url : str
        Full URL, e.g. ``file:///cache/part-0.parquet``.
    rows : int
        Number of rows, from the Parquet footer.
    """

    url: str
    rows: int


@dataclass(frozen=True)
class DatasetRef:
    """Materialized rows of one fit.

    Attributes
    ----------
    root : str
        URL of the directory.
    columns : ColumnSpec
        Type and shape of each stored column.
    train, validation : tuple of RowGroup
        Files of each split, in a fixed order; `validation` may be empty.
    skipped_rows : int
        Rows left out by ``handleInvalid="skip"``.
    bytes : int
        Size on disk.
    reader : {"petastorm", "pyarrow"}
        The library through which workers read the files.
    """

    root: str
    columns: ColumnSpec
    train: tuple[RowGroup, ...]
    validation: tuple[RowGroup, ...] = ()
    skipped_rows: int = 0
    bytes: int = 0
    reader: ReaderName = "pyarrow"

    def row_groups(self, split: Split) -> tuple[RowGroup, ...]:
        """Files of one split."""
        return self.train if split == "train" else self.validation

    def rows(self, split: Split) -> int:
        """Number of rows of one split."""
        return sum(group.rows for group in self.row_groups(split))
