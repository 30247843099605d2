"""One materialization for many fits. Runs on the driver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spark_dlobd.data.sources import Sources, sources_of
from spark_dlobd.job.dataset import DatasetRef

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from spark_dlobd.data.request import Request
    from spark_dlobd.data.storage import CacheDirectory

    Write = Callable[[DataFrame, Request], tuple[CacheDirectory, DatasetRef]]


@dataclass
class _Entry:
    """Data of one DataFrame and request, written by the first who asks.

    `sources` and `content` are from before the write: what changes during it is noticed.
    """

    df: DataFrame
    request: Request
    sources: Sources
    lock: threading.Lock = field(default_factory=threading.Lock)
    data: DatasetRef | None = None
    content: tuple[int, str] | None = None


class Scope:
    """Materialized data that several fits may read."""

    def __init__(self) -> None:
        self.users = 0
        self._entries: list[_Entry] = []
        self._lookup = threading.Lock()
        self._directories = ExitStack()

    def dataset(self, df: DataFrame, request: Request, write: Write) -> DatasetRef:
        """Return the data of `df`, written now if nobody has."""
        entry = self._entry(df, request)
        with entry.lock:
            if entry.data is None:
                directory, entry.data = write(df, request)
                with self._lookup:
                    self._directories.callback(directory.remove)
            return entry.data

    def _entry(self, df: DataFrame, request: Request) -> _Entry:
        with self._lookup:
            sources = sources_of(df)
            same = [entry for entry in self._entries if entry.request == request]
            for entry in same:
                if sources.watched and entry.sources == sources and _same_plan(entry.df, df):
                    return entry
            new = _Entry(df, request, sources)
            if same or not sources.watched:
                # Feature transformers make a new function in every transform, so plans
                # of equal content differ; one aggregation is cheaper than a write. And of
                # what cannot be watched only the content tells whether it is still the same.
                new.content = _content(df, request)
            for entry in same:
                if entry.content is None and sources_of(entry.df) == entry.sources:
                    entry.content = _content(entry.df, request)
                if entry.content is not None and entry.content == new.content:
                    return entry
            self._entries.append(new)
            return new

    def close(self) -> None:
        """Remove all files."""
        with self._lookup:
            self._entries.clear()
            self._directories.close()


def _same_plan(one: DataFrame, other: DataFrame) -> bool:
    """Whether Spark finds two plans equal; it compares directories, not the files in them."""
    return one.semanticHash() == other.semanticHash() and one.sameSemantics(other)


def _content(df: DataFrame, request: Request) -> tuple[int, str]:
    """Count and sum of the hashes of the rows, whatever their order."""
    from pyspark.sql import functions as F

    from spark_dlobd.data.columns import reference

    names = [name for column in request.columns.all for name in column.sources]
    if request.indicator is not None:
        names.append(request.indicator)
    hashes = F.xxhash64(*[F.col(reference(df.schema, name)) for name in names]).cast(
        "decimal(20,0)"
    )
    row = df.agg(F.count(F.lit(1)), F.sum(hashes)).first()
    return (0, "") if row is None else (int(row[0]), str(row[1]))


_scope: Scope | None = None
_scope_lock = threading.Lock()


def current_scope() -> Scope | None:
    """The scope that is open in this process, whatever thread asks."""
    with _scope_lock:
        return _scope


@contextmanager
def entered_scope() -> Iterator[Scope]:
    """Open a scope or join the one that is open; the last to leave closes it."""
    global _scope
    with _scope_lock:
        scope = _scope = _scope or Scope()
        scope.users += 1
    try:
        yield scope
    finally:
        with _scope_lock:
            scope.users -= 1
            last = scope.users == 0
            if last:
                _scope = None
        if last:
            scope.close()
