"""Files of a saved stage through Hadoop's FileSystem, so at any URL that Spark can write.

Runs on the driver, of a classic session.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from py4j.protocol import Py4JError  # type: ignore[import-untyped]

from spark_dlobd.errors import PersistenceError
from spark_dlobd.spark import spark_context

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

METADATA = "metadata"
MODEL_FILE = "model.keras"
_CHUNK_BYTES = 4 << 20


def write_bytes(spark: SparkSession, path: str, data: bytes) -> None:
    """Runs on the driver. Write a file through Hadoop's FileSystem, whole or not at all.

    Raises
    ------
    PersistenceError
        If it cannot be written.
    """
    try:
        file_system, where = _open_file_system(spark, path)
        stream = file_system.create(where, False)
        try:
            try:
                for start in range(0, len(data), _CHUNK_BYTES):
                    stream.write(bytearray(data[start : start + _CHUNK_BYTES]))
            finally:
                stream.close()
        except BaseException:
            _discard(file_system, where)
            raise
    except Py4JError as error:
        raise PersistenceError(f"Cannot write {path}: {java_message(error)}") from error


def _discard(file_system: Any, where: Any) -> None:
    """Delete what was written of a file.

    On a full disk Hadoop's close leaves a local file open, and a file that is deleted while it
    is open keeps its room: the next save, however small, would fail too. So it is emptied first.
    """
    try:
        if file_system.getUri().getScheme() == "file":
            file_system.create(where, True).close()
    finally:
        file_system.delete(where, False)


def read_bytes(spark: SparkSession, path: str) -> bytes:
    """Runs on the driver. Read a file through Hadoop's FileSystem.

    Raises
    ------
    PersistenceError
        If it is not there or cannot be read.
    """
    try:
        file_system, where = _open_file_system(spark, path)
        if not file_system.exists(where):
            raise PersistenceError(
                f"{path} does not exist. Was the stage saved completely, and by this library?"
            )
        stream = file_system.open(where)
        try:
            return b"".join(_chunks(stream))
        finally:
            stream.close()
    except Py4JError as error:
        raise PersistenceError(f"Cannot read {path}: {java_message(error)}") from error


def metadata_text(spark: SparkSession, path: str) -> str:
    """Read the metadata of a stage, or raise `PersistenceError`."""
    folder = f"{path}/{METADATA}"
    file_system, where = _open_file_system(spark, folder)
    if not file_system.exists(where):
        raise PersistenceError(
            f"{folder} does not exist. Was the stage saved completely, and by this library?"
        )
    first = spark.read.text(folder).first()
    if first is None:
        raise PersistenceError(f"{folder} is empty. Save the stage again.")
    return str(first[0])


def check_free(spark: SparkSession, path: str) -> None:
    """Raise `PersistenceError` if a stage is there already."""
    for name in (METADATA, MODEL_FILE):
        file_system, where = _open_file_system(spark, f"{path.rstrip('/')}/{name}")
        if file_system.exists(where):
            raise already_there(path, name)


def already_there(path: str, name: str) -> PersistenceError:
    """Error of a path that holds a stage or a part of one."""
    return PersistenceError(
        f"{path} already exists: it holds {name}. Choose another path, or use "
        "write().overwrite().save(path)."
    )


@contextmanager
def undone_on_failure(spark: SparkSession, path: str) -> Iterator[list[str]]:
    """Remove the files in the list, and the folders that were made for them."""
    written: list[str] = []
    file_system, folder = _open_file_system(spark, path)
    made = []
    while folder is not None and not file_system.exists(folder):
        made.append(folder)
        folder = folder.getParent()
    try:
        yield written
    except BaseException as error:
        try:
            for name in reversed(written):
                file_system.delete(_open_file_system(spark, f"{path.rstrip('/')}/{name}")[1], True)
            for folder in made:
                if file_system.exists(folder) and not file_system.listStatus(folder):
                    file_system.delete(folder, False)
        except Py4JError as left:
            raise PersistenceError(
                f"Cannot save to {path}: {java_message(error)} Nor can what was written be "
                f"removed: {java_message(left)} Delete {path}."
            ) from error
        raise


def _open_file_system(spark: SparkSession, path: str) -> tuple[Any, Any]:
    context = spark_context(spark)
    where = context._jvm.org.apache.hadoop.fs.Path(path)  # type: ignore[union-attr]
    return where.getFileSystem(context._jsc.hadoopConfiguration()), where


def _chunks(stream: Any) -> Iterable[bytes]:
    while chunk := bytes(stream.readNBytes(_CHUNK_BYTES)):
        yield chunk


def java_message(error: BaseException) -> str:
    """What the JVM said last about its reason; for other errors their text."""
    cause = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    if cause is None:
        return str(error)
    while cause.getCause() is not None:
        cause = cause.getCause()
    return str(cause.toString())
