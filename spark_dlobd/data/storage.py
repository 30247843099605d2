"""The cache directory of a fit: where it is, what is in it, how it goes away."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from spark_dlobd.errors import ConfigurationError, DataError, PersistenceError
from spark_dlobd.job.dataset import RowGroup
from spark_dlobd.spark import spark_context

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_PREFIX = "spark-dlobd-"
_FOOTER_THREADS = 8
_GONE_TIMEOUT_S = 10.0
_GONE_PAUSE_S = 0.2


class CacheDirectory:
    """A new directory that driver and executors share. Runs on the driver.

    The JVM deletes it when it ends, so also when the driver's Python is killed. In the
    temporary directory, which all users share, only the own user may enter it.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
        Its Hadoop configuration resolves the path.
    cache_dir : str or None
        Path or URL of the parent. None is the driver's temporary directory, which
        serves local masters only.

    Raises
    ------
    ConfigurationError
        `cache_dir` is None on a cluster, or the directory cannot be made.
    """

    def __init__(self, spark: SparkSession, cache_dir: str | None) -> None:
        context = spark_context(spark)
        master = str(context.master)
        self._private = cache_dir is None
        if cache_dir is None:
            if not master.startswith("local"):
                raise ConfigurationError(
                    f"cacheDir must be set on master '{master}': a path that the driver and all "
                    f"executors share, e.g. 'hdfs:///tmp/training', 's3://bucket/tmp' or an NFS "
                    f"mount 'file:///shared/tmp'. Got None."
                )
            cache_dir = f"file://{tempfile.gettempdir()}"
        if not cache_dir.strip():
            raise ConfigurationError(f"cacheDir must be a path or URL, or None. Got {cache_dir!r}.")
        if any(character in cache_dir for character in "#?%"):
            raise ConfigurationError(
                f"cacheDir must not contain '#', '?' or '%'. Got '{cache_dir}'."
            )
        self._jvm: Any = context._jvm
        self._conf: Any = context._jsc.hadoopConfiguration()
        self.url = self._make(f"{cache_dir.rstrip('/')}/{_PREFIX}{uuid.uuid4().hex}")
        _remember(self)

    def _make(self, path: str) -> str:
        from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
        from pyspark.errors import PySparkException

        wrong = f"cacheDir must be a directory that can be written. Got '{path.rpartition('/')[0]}'"
        try:
            if self._private:
                os.mkdir(path[len("file://") :], mode=0o700)
            hadoop_path = self._path(path)
            system = hadoop_path.getFileSystem(self._conf)
            made = system.mkdirs(hadoop_path)
            url = str(system.makeQualified(hadoop_path).toString())
            system.deleteOnExit(hadoop_path)
        except Py4JJavaError as error:
            raise ConfigurationError(f"{wrong}: {error.java_exception.getMessage()}") from error
        except (OSError, PySparkException) as error:
            raise ConfigurationError(f"{wrong}: {error}") from error
        if not made:
            raise ConfigurationError(f"{wrong}.")
        # Hadoop writes file:/path, everybody else file:///path.
        return f"file://{url[5:]}" if url.startswith("file:/") and url[6:7] != "/" else url

    def _path(self, url: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(url)

    def parquet_files(self) -> list[tuple[str, int]]:
        """URL and size of every Parquet file below, sorted by URL."""
        local = local_path(self.url)
        if local is not None:
            found = [(f"file://{path}", path.stat().st_size) for path in local.rglob("*.parquet")]
            return sorted(found)
        path = self._path(self.url)
        remaining = path.getFileSystem(self._conf).listFiles(path, True)
        found = []
        while remaining.hasNext():
            status = remaining.next()
            url = str(status.getPath().toString())
            if url.endswith(".parquet"):
                found.append((url, int(status.getLen())))
        return sorted(found)

    def protect(self) -> None:
        """Take what was written from other users, where the library chose the place.

        They cannot enter the directory anyway; this holds also for who moves files out of it.
        """
        local = local_path(self.url)
        if self._private and local is not None:
            for path in local.rglob("*"):
                path.chmod(0o700 if path.is_dir() else 0o600)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a full or protected disk into an error that says where and why.

        Raises
        ------
        PersistenceError
            Instead of what Spark, Arrow or the system raise.
        """
        from py4j.protocol import Py4JJavaError

        try:
            yield
        except OSError as error:
            raise self._cannot_write(str(error)) from error
        except Py4JJavaError as error:
            found = write_failure(error.java_exception)
            if found is None:
                raise  # the source of the rows failed
            raise self._cannot_write(*found) from error

    def _cannot_write(self, cause: str, sparks_own: bool = False) -> PersistenceError:
        if sparks_own:
            return PersistenceError(
                f"Spark cannot write its temporary files while it prepares rows for {self.url}: "
                f"{cause}. Make room in the directories of spark.local.dir (default: the "
                f"temporary directory), or set it to others."
            )
        return PersistenceError(
            f"The rows cannot be written to {self.url}: {cause}. Make room there and make it "
            f"writable, or set cacheDir to another directory that driver and executors share."
        )

    def remove(self) -> None:
        """Delete the directory and all that is in it; nothing if it is gone already."""
        self._delete()
        _forget(self)

    def remove_after_failure(self) -> None:
        """Delete the directory although cancelled tasks may still be writing into it.

        Raises
        ------
        OSError
            Something wrote into it again for all of ten seconds.
        """
        deadline = time.monotonic() + _GONE_TIMEOUT_S
        while True:
            # A task that adds a file during the deletion makes it fail.
            with suppress(OSError):
                self._delete()
            time.sleep(_GONE_PAUSE_S)
            if not self._exists():
                _forget(self)
                return
            if time.monotonic() > deadline:
                raise OSError(f"{self.url} was written again after the fit had ended. Delete it.")

    def _delete(self) -> None:
        local = local_path(self.url)
        if local is None:
            path = self._path(self.url)
            path.getFileSystem(self._conf).delete(path, True)
        elif local.exists():
            shutil.rmtree(local)

    def _exists(self) -> bool:
        local = local_path(self.url)
        if local is not None:
            return local.exists()
        path = self._path(self.url)
        return bool(path.getFileSystem(self._conf).exists(path))


def local_path(url: str) -> Path | None:
    """Path of a ``file:`` URL, None for any other. URLs are not percent-encoded here."""
    parts = urlsplit(url)
    return Path(parts.path) if parts.scheme == "file" else None


# Parts of names of JVM classes that write what they are given, and those of them that write
# shuffle and spill files.
_SPARKS_OWN = ("DiskBlockObjectWriter", "SpillWriter", "ShuffleWriter", "MapOutputWriter")
_WRITERS = (
    *_SPARKS_OWN,
    "ParquetFileWriter",
    "ParquetOutputWriter",
    "OutputCommitter",
    "CommitProtocol",
    "DataStreamer",
    "FileOutputStream",
    "DFSOutputStream",
    "S3ABlockOutputStream",
    "AbfsOutputStream",
)


def write_failure(throwable: Any) -> tuple[str, bool] | None:
    """Why the JVM could not write, and whether that was a file of Spark's own.

    Parameters
    ----------
    throwable : py4j.java_gateway.JavaObject
        What ended the job, with its causes.

    Returns
    -------
    tuple of (str, bool) or None
        None where no I/O failed, or where it failed while rows were read.
    """
    found = None
    while throwable is not None:
        if "java.io.IOException" in _class_names(throwable):
            frames = [(f.getClassName(), f.getMethodName()) for f in throwable.getStackTrace()]
            # a writer asks an iterator for rows: below that it is reading that failed
            reading = [method in ("next", "hasNext") for _, method in frames]
            inner = frames[: reading.index(True)] if any(reading) else frames
            if any(part in name for name, _ in inner for part in _WRITERS):
                own = any(part in name for name, _ in inner for part in _SPARKS_OWN)
                found = f"{throwable.getMessage()}", own
        throwable = throwable.getCause()
    return found


def _class_names(java: Any) -> list[str]:
    """The class of a Java object and the classes that it extends."""
    names = []
    one = java.getClass()
    while one is not None:
        names.append(str(one.getName()))
        one = one.getSuperclass()
    return names


def count_rows(files: list[tuple[str, int]]) -> list[RowGroup]:
    """Rows of each file from its footer; files without rows are left out.

    Raises
    ------
    DataError
        A file has more than one row group.
    """
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        groups = list(pool.map(_row_group, [url for url, _ in files]))
    return [group for group in groups if group.rows]


def _row_group(url: str) -> RowGroup:
    import pyarrow.parquet as pq

    system, path = arrow_file_system(url)
    with system.open_input_file(path) as file:
        metadata = pq.read_metadata(file)
    if metadata.num_row_groups > 1:
        raise DataError(
            f"{url} has {metadata.num_row_groups} row groups, expected one. Remove "
            f"'parquet.block.size' from the Hadoop configuration."
        )
    return RowGroup(url, metadata.num_rows)


def arrow_file_system(url: str) -> tuple[Any, str]:
    """Arrow file system and path of a URL; what Arrow does not know goes through fsspec."""
    import fsspec  # type: ignore[import-untyped]
    from pyarrow import fs

    local = local_path(url)
    if local is not None:
        return fs.LocalFileSystem(), str(local)
    if urlsplit(url).scheme in ("hdfs", "viewfs", "s3", "gs"):
        system, path = fs.FileSystem.from_uri(url)
        return system, path
    other, path = fsspec.core.url_to_fs(url)
    return fs.PyFileSystem(fs.FSSpecHandler(other)), path


_open: dict[str, tuple[int, CacheDirectory]] = {}
_open_lock = threading.Lock()


def _remember(directory: CacheDirectory) -> None:
    with _open_lock:
        _open[directory.url] = (os.getpid(), directory)


def _forget(directory: CacheDirectory) -> None:
    with _open_lock:
        _open.pop(directory.url, None)


@atexit.register
def _remove_all() -> None:
    """Remove what an interpreter that ends in the middle of a fit leaves."""
    with _open_lock:
        # A forked child must not take its parent's data away.
        left = [directory for pid, directory in _open.values() if pid == os.getpid()]
    for directory in left:
        directory.remove()
