"""Files of a saved stage where a session has no JVM to ask for them: Spark Connect.

Runs on the driver. A file is written as a Parquet folder of its pieces by a task of the
cluster, which reaches every URL that Spark does. Files that a classic session wrote are read
through Spark's binary files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.errors import PySparkException

from spark_dlobd.errors import PersistenceError
from spark_dlobd.estimators.artifact import Artifact, add_artifact

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

_PIECE_BYTES = 4 << 20
_SCHEMA = "piece int, content binary"


def write_table(spark: SparkSession, path: str, content: bytes, overwrite: bool) -> None:
    """Write bytes as a Parquet folder.

    Raises
    ------
    PersistenceError
        If it cannot be written, or is there and not to be overwritten.
    """
    artifact = add_artifact(spark, content)
    one = spark.range(0, 1, 1, 1)
    pieces = one.mapInArrow(partial(_pieces, artifact), _SCHEMA)  # type: ignore[arg-type]
    try:
        pieces.write.mode("overwrite" if overwrite else "error").parquet(path)
    except PySparkException as error:
        raise PersistenceError(f"Cannot write {path}: {_said(error)}") from error


def read_table(spark: SparkSession, path: str) -> bytes:
    """Read what `write_table` wrote; classic sessions read it, too.

    Raises
    ------
    PersistenceError
        If it is not there or cannot be read.
    """
    try:
        rows = spark.read.parquet(path).orderBy("piece").collect()
    except PySparkException as error:
        raise PersistenceError(f"Cannot read {path}: {_said(error)}") from error
    return b"".join(bytes(row["content"]) for row in rows)


def read_file(spark: SparkSession, path: str) -> bytes:
    """Read one file whole.

    Raises
    ------
    PersistenceError
        If it is not there or cannot be read.
    """
    try:
        row = spark.read.format("binaryFile").load(path).select("content").first()
    except PySparkException as error:
        raise PersistenceError(f"Cannot read {path}: {_said(error)}") from error
    if row is None:
        raise PersistenceError(
            f"{path} does not exist. Was the stage saved completely, and by this library?"
        )
    return bytes(row["content"])


def read_line(spark: SparkSession, path: str) -> str | None:
    """Read the first line of a text folder; None if the folder is not there."""
    try:
        row = spark.read.text(path).first()
    except PySparkException as error:
        if error.getCondition() == "PATH_NOT_FOUND":
            return None
        raise PersistenceError(f"Cannot read {path}: {_said(error)}") from error
    return None if row is None else str(row[0])


def write_line(spark: SparkSession, path: str, line: str, overwrite: bool) -> None:
    """Write a text folder of one line.

    Raises
    ------
    PersistenceError
        If it cannot be written, or is there and not to be overwritten.
    """
    frame = spark.createDataFrame([(line,)], "value string").coalesce(1)
    try:
        frame.write.mode("overwrite" if overwrite else "error").text(path)
    except PySparkException as error:
        raise PersistenceError(f"Cannot write {path}: {_said(error)}") from error


def _pieces(artifact: Artifact, _: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Runs on a worker."""
    import pyarrow as pa

    content = artifact.value
    for piece, start in enumerate(range(0, len(content), _PIECE_BYTES)):
        arrays = [
            pa.array([piece], pa.int32()),
            pa.array([content[start : start + _PIECE_BYTES]], pa.binary()),
        ]
        yield pa.RecordBatch.from_arrays(arrays, names=["piece", "content"])


def _said(error: Any) -> str:
    return str(error).split("\n\nJVM stacktrace")[0].strip()
