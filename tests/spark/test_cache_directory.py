"""Who may read the rows in the cache, when they go away, and disks that fill."""

from __future__ import annotations

import contextlib
import glob
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from spark_dlobd.data.columns import feature_column, label_column
from spark_dlobd.data.materialize import ValidationSplit, materialize
from spark_dlobd.errors import ConfigurationError, PersistenceError
from spark_dlobd.job.columns import ColumnSpec
from tests.small_disk import small_disk

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert glob.glob(str(tmp_path / "**" / "spark-dlobd-*"), recursive=True) == []


def numbers(spark, rows=40):
    df = spark.range(0, rows, 1, 1).selectExpr("array(double(id), 1D) x", "id y", "id < 20 v")
    return df, ColumnSpec.of(feature_column(df.schema, "x", (2,)), label_column(df.schema, "y"))


def modes(root):
    """Permissions of a directory and all that is below, by kind."""
    found = [root, *root.rglob("*")]
    return {
        kind: {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_dir() == is_dir}
        for kind, is_dir in (("directories", True), ("files", False))
    }


@pytest.mark.parametrize("world_size", [1, 4], ids=["written by Spark", "rewritten"])
def test_rows_in_the_temporary_directory_are_for_the_own_user_alone(spark, world_size):
    df, columns = numbers(spark)
    split = ValidationSplit(indicator="v")
    with materialize(df, columns, validation=split, world_size=world_size) as data:
        root = Path(data.root[len("file://") :])
        assert any(path.suffix == ".parquet" for path in root.rglob("*"))
        assert modes(root) == {"directories": {0o700}, "files": {0o600}}


def test_nobody_else_can_enter_while_spark_is_still_writing(spark, temporary, monkeypatch):
    from spark_dlobd.data import materialize as module

    seen = []

    def write(*arguments):
        (root,) = temporary.glob("spark-dlobd-*")
        seen.append(stat.S_IMODE(root.stat().st_mode))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_parquet", write)
    df, columns = numbers(spark)
    with pytest.raises(KeyboardInterrupt), materialize(df, columns):
        pass
    assert seen == [0o700]


def test_permissions_in_a_directory_of_the_user_are_those_that_hold_there(spark, temporary):
    df, columns = numbers(spark)
    (temporary / "shared").mkdir()
    before = os.umask(0)
    os.umask(before)
    with materialize(df, columns, cache_dir=str(temporary / "shared")) as data:
        assert stat.S_IMODE(os.stat(data.root[len("file://") :]).st_mode) == 0o777 & ~before


@pytest.mark.parametrize("when", ["writing", "reading"])
def test_a_killed_driver_leaves_no_rows(temporary, when):
    environment = {**os.environ, "TMPDIR": str(temporary)}
    program = [sys.executable, "-m", "tests.spark.killed_driver", when]
    with open(temporary / "output", "w") as output:
        child = subprocess.Popen(program, env=environment, stdout=output, stderr=output)
    try:
        pattern = "_temporary/**/*.parquet" if when == "writing" else "*.parquet"
        wait_for(
            lambda: list(temporary.glob(f"spark-dlobd-*/rows/{pattern}")), temporary / "output"
        )
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    wait_for(lambda: not list(temporary.glob("spark-dlobd-*")), temporary / "output")


def wait_for(condition, log):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("cache_dir", "reason"),
    [
        ("nothing://host/x", 'No FileSystem for scheme "nothing"'),
        ("hdfs://", "no host"),
        ("file://host/x", "Wrong FS"),
        ("a:b", "Relative path in absolute URI"),
        ("", "be a path or URL"),
        ("  ", "be a path or URL"),
        ("/proc/rows", "be a directory that can be written"),
        ("{file}", "be a directory"),
        ("{file}/below", "be a directory"),
    ],
)
def test_a_cache_dir_that_cannot_be_made_is_refused(spark, temporary, cache_dir, reason):
    (temporary / "file").write_text("")
    df, columns = numbers(spark)
    wanted = cache_dir.format(file=temporary / "file")
    with (
        pytest.raises(ConfigurationError, match=f"(?s)cacheDir must.*({reason})"),
        materialize(df, columns, cache_dir=wanted),
    ):
        pass


def test_a_temporary_directory_that_is_gone_is_refused(spark, temporary, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "gone"))
    df, columns = numbers(spark)
    with (
        pytest.raises(ConfigurationError, match=r"cacheDir must be.*gone.*No such file"),
        materialize(df, columns),
    ):
        pass


@contextlib.contextmanager
def files_end_at(spark, size):
    """The JVM cannot make a file longer than `size` bytes."""
    pid = int(spark._jvm.java.lang.ProcessHandle.current().pid())
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def test_rows_that_do_not_fit_are_an_error_with_path_and_cause(spark, temporary):
    df, columns = numbers(spark, rows=40_000)
    with (
        files_end_at(spark, 1 << 16),
        pytest.raises(
            PersistenceError,
            match=rf"The rows cannot be written to file://{temporary}/spark-dlobd-\w+: "
            r"File too large\. Make room there .* set cacheDir",
        ),
        materialize(df, columns),
    ):
        pass


def test_shuffle_files_that_do_not_fit_are_told_apart(spark):
    df, columns = numbers(spark, rows=40_000)
    with (
        files_end_at(spark, 1 << 16),
        pytest.raises(
            PersistenceError,
            match=r"temporary files while it prepares rows for file://.*: File too large\. "
            r"Make room in the directories of spark\.local\.dir",
        ),
        materialize(df.repartition(3), columns),
    ):
        pass


def test_a_disk_that_fills_is_an_error_with_path_and_cause(spark, temporary):
    df, columns = numbers(spark, rows=40_000)
    with small_disk(temporary / "small", "256k") as small:
        with (
            pytest.raises(
                PersistenceError, match=rf"written to file://{small}/.*: No space left on device"
            ),
            materialize(df, columns, cache_dir=str(small)),
        ):
            pass
        assert list(small.iterdir()) == []


def test_a_disk_that_is_full_when_files_are_rewritten(spark, monkeypatch):
    import pyarrow.parquet as pq

    def full(*arguments, **settings):
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"rows")

    monkeypatch.setattr(pq, "write_table", full)
    df, columns = numbers(spark)
    with (
        pytest.raises(PersistenceError, match=r"written to file://.*No space left on device"),
        materialize(df, columns, world_size=4),
    ):
        pass


@pytest.mark.parametrize("source", ["file that is gone", "function"])
def test_a_source_that_fails_is_not_blamed_on_the_disk(spark, temporary, source):
    if source == "function":
        df, columns = numbers(spark)
        df = df.selectExpr("x", "raise_error('source broke') y").selectExpr("x", "int(y) y")
    else:
        df, columns = numbers(spark)
        df.write.parquet(str(temporary / "rows"))
        df = spark.read.parquet(str(temporary / "rows"))
        for path in (temporary / "rows").glob("*.parquet"):
            path.unlink()
    with (
        pytest.raises(Exception, match=r"(?s)(source broke|FILE_NOT_EXIST)") as caught,
        materialize(df, columns),
    ):
        pass
    assert not isinstance(caught.value, PersistenceError)
