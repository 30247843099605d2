"""What the files behind a DataFrame say: path, length and time. Runs on the driver."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# Rows that are in the plan itself, or are defined by it.
_FIXED_PLANS = {"LocalRelation", "Range", "OneRowRelation", "CTERelationRef"}
_FIXED_RDDS = {"ParallelCollectionRDD", "EmptyRDD", "LocalCheckpointRDD", "ReliableCheckpointRDD"}
_LOCAL = "file:/"
# Of `FileStatus.toString()`: one call for a whole listing, where each field of each file
# would be a call into the JVM.
_FILE = re.compile(r"\{path=(.*?); isDirectory=false; length=(\d+);.*?modification_time=(\d+)")


@dataclass(frozen=True)
class Sources:
    """The state of all that a DataFrame reads.

    Attributes
    ----------
    files : frozenset
        Of each file: path, length and time as the DataFrame found them when it was made,
        since it reads no more than that, and what the file system says now.
    cached : frozenset of int
        Which of Spark's caches it reads instead, as these may hold older rows.
    watched : bool
        Whether all this tells of every change. False where rows come from elsewhere, e.g. a
        database, or where files are gone.
    """

    files: frozenset[tuple[Any, ...]]
    cached: frozenset[int]
    watched: bool


def sources_of(df: DataFrame) -> Sources:
    """Look at the files of a DataFrame now; starts no job on rows.

    Examples
    --------
    >>> first = sources_of(spark.read.parquet("rows"))  # doctest: +SKIP
    >>> df.write.mode("overwrite").parquet("rows")  # doctest: +SKIP
    >>> sources_of(spark.read.parquet("rows")) == first  # doctest: +SKIP
    False
    """
    files: set[tuple[Any, ...]] = set()
    watched = True
    # a new plan, since one that has run keeps to the caches that there were then
    execution: Any = df.select("*")._jdf.queryExecution()
    for leaf in _leaves(execution.analyzed()):
        location = _location(leaf)
        if location is not None:
            listed = _listed(df, location)
            now = _now(df, location, listed)
            files |= {(path, *facts, now.get(path)) for path, facts in listed.items()}
            watched = watched and listed.keys() == now.keys()
        elif not _is_fixed(leaf):
            watched = False
    return Sources(frozenset(files), _caches(df, execution), watched)


def _caches(df: DataFrame, execution: Any) -> frozenset[int]:
    jvm: Any = df.sparkSession._jvm
    leaves = _leaves(execution.withCachedData())
    builders = [leaf.cacheBuilder() for leaf in leaves if _class_name(leaf) == "InMemoryRelation"]
    return frozenset(int(jvm.java.lang.System.identityHashCode(one)) for one in builders)


def _leaves(plan: Any) -> Iterator[Any]:
    """What a plan reads, subqueries included; views and CTEs are resolved in it."""
    for part in (plan, *_elements(plan.subqueriesAll())):
        yield from _elements(part.collectLeaves())


def _elements(sequence: Any) -> Iterator[Any]:
    """Elements of a Scala sequence."""
    return (sequence.apply(index) for index in range(sequence.size()))


def _class_name(java: Any) -> str:
    return str(java.getClass().getName()).rpartition(".")[2].rstrip("$")


def _location(leaf: Any) -> Any | None:
    """The file index of a leaf that reads files."""
    if _class_name(leaf) != "LogicalRelation":
        return None
    relation = leaf.relation()
    return relation.location() if _class_name(relation) == "HadoopFsRelation" else None


def _is_fixed(leaf: Any) -> bool:
    if _class_name(leaf) != "LogicalRDD":
        return _class_name(leaf) in _FIXED_PLANS
    left = [leaf.rdd()]
    seen: set[int] = set()
    while left:
        rdd = left.pop()
        if rdd.id() in seen:
            continue
        seen.add(rdd.id())
        parents = [dependency.rdd() for dependency in _elements(rdd.dependencies())]
        if not parents and _class_name(rdd) not in _FIXED_RDDS:
            return False
        left += parents
    return True


def _listed(df: DataFrame, location: Any) -> dict[str, tuple[int, int]]:
    """Length and modification time of the files that the DataFrame will read."""
    scala: Any = df.sparkSession._jvm.scala.collection.immutable  # type: ignore[union-attr]
    nothing = getattr(getattr(scala, "Nil$"), "MODULE$")
    text = str(location.listFiles(nothing, nothing).mkString("\n"))
    return {path: (int(size), int(time)) for path, size, time in _FILE.findall(text)}


def _now(df: DataFrame, location: Any, listed: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """What the file system says of the listed files; without those that are gone."""
    if all(path.startswith(_LOCAL) for path in listed):
        found = {path: _local_facts(f"/{path[len('file:') :].lstrip('/')}") for path in listed}
        return {path: facts for path, facts in found.items() if facts is not None}
    from pyspark.errors import AnalysisException

    roots = str(location.rootPaths().mkString("\n")).split("\n")
    # Spark lists many directories in parallel, and anew for each reader.
    reader = df.sparkSession.read.format("binaryFile").option("recursiveFileLookup", "true")
    try:
        again = reader.option("__globPaths__", "false").load(roots)
    except AnalysisException:
        return {}  # the directories are gone
    fresh: dict[str, tuple[int, ...]] = {}
    for leaf in _leaves(again._jdf.queryExecution().analyzed()):
        fresh |= _listed(again, _location(leaf))
    return {path: fresh[path] for path in listed.keys() & fresh.keys()}


def _local_facts(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # the inode and its change time tell of a file that was put in the place of another of the
    # same length within the same millisecond, or whose modification time was set back
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
