"""What is told of a JVM that could not write."""

from __future__ import annotations

import pytest

from spark_dlobd.data.storage import write_failure

READ = [("org.apache.hadoop.fs.FSInputStream", "read"), ("...FileScanRDD$$anon$1", "hasNext")]
WRITE = [
    ("java.io.FileOutputStream", "writeBytes"),
    ("org.apache.parquet.hadoop.ParquetFileWriter", "close"),
]
COMMIT = [("org.apache.hadoop.mapreduce.lib.output.FileOutputCommitter", "setupJob")]
SPILL = [
    ("java.io.FileOutputStream", "write"),
    ("org.apache.spark.storage.DiskBlockObjectWriter", "write"),
]
TASK = [("org.apache.spark.sql.execution.datasources.FileFormatDataWriter", "writeWithIterator")]


class Frame:
    def __init__(self, name: str, method: str) -> None:
        self.name, self.method = name, method

    def getClassName(self) -> str:
        return self.name

    def getMethodName(self) -> str:
        return self.method


class Class:
    def __init__(self, *names: str) -> None:
        self.names = names

    def getName(self) -> str:
        return self.names[0]

    def getSuperclass(self) -> Class | None:
        return Class(*self.names[1:]) if self.names[1:] else None


class Failure:
    """A Java exception with its superclasses, frames from the innermost on, and cause."""

    def __init__(self, names, message="", frames=(), cause=None) -> None:
        self.names, self.message, self.frames, self.cause = names, message, frames, cause

    def getClass(self) -> Class:
        return Class(*self.names)

    def getMessage(self) -> str:
        return self.message

    def getStackTrace(self) -> list[Frame]:
        return [Frame(*frame) for frame in self.frames]

    def getCause(self):
        return self.cause


def task_failed(cause: Failure) -> Failure:
    """As Spark tells of a task: a chain that ends with the cause."""
    wrapped = Failure(["org.apache.hadoop.fs.FSError", "java.lang.Error"], "", WRITE, cause)
    return Failure(["org.apache.spark.SparkException"], "[TASK_WRITE_FAILED]", TASK, wrapped)


def io(message: str, frames, *names: str) -> Failure:
    return Failure([*names, "java.io.IOException", "java.lang.Exception"], message, frames)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (io("No space left on device", WRITE), ("No space left on device", False)),
        (io("quota exceeded", COMMIT, "QuotaExceededException"), ("quota exceeded", False)),
        (io("Permission denied", COMMIT, "AccessControlException"), ("Permission denied", False)),
        (io("No space left on device", SPILL), ("No space left on device", True)),
        (io("No space left on device", READ + WRITE), None),
        (io("Connection reset", READ), None),
        (Failure(["java.lang.ArithmeticException"], "/ by zero", WRITE), None),
    ],
)
def test_only_what_failed_to_write_is_told(failure, expected):
    assert write_failure(task_failed(failure)) == expected
