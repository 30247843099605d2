"""Inside `reuse_data` a fit sees the rows that its source has now."""

from __future__ import annotations

import glob
import os
import tempfile

import numpy as np
import pytest

from spark_dlobd.data.columns import feature_column, label_column
from spark_dlobd.data.materialize import materialize, reuse_data
from spark_dlobd.data.reader import ShardReader
from spark_dlobd.data.sources import _local_facts, sources_of
from spark_dlobd.job.columns import ColumnSpec
from spark_dlobd.job.plan import ShardPlan

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert glob.glob(str(tmp_path / "spark-dlobd-*")) == []


@pytest.fixture
def written(spark):
    """Function that materializes a DataFrame and returns its features and where they are."""

    def write(df):
        columns = ColumnSpec.of(
            feature_column(df.schema, "x", (1,)), label_column(df.schema, "y", num_classes=100)
        )
        with materialize(df, columns) as data:
            plan = ShardPlan.of(data.train, 1, 100, seed=0, shuffle=False)
            blocks = list(ShardReader(data, "train", plan, 0).blocks())
        values = np.concatenate([block.arrays[0] for block in blocks]).ravel()
        return sorted(values.tolist()), data.root

    with reuse_data():
        yield write


def rows(spark, first, count=3):
    """`count` rows whose features begin at `first`."""
    return spark.range(first, first + count, 1, 1).selectExpr(
        "float(id) x", "id - 10 * (id div 10) y"
    )


def save(df, path, mode="overwrite"):
    df.write.mode(mode).parquet(str(path))


def test_a_source_that_did_not_change_is_written_once(spark, written, temporary):
    save(rows(spark, 10), temporary / "a")
    first = written(spark.read.parquet(str(temporary / "a")))
    assert first[0] == [10, 11, 12]
    assert written(spark.read.parquet(str(temporary / "a"))) == first


@pytest.mark.parametrize("again", ["read again", "same DataFrame", "other plan", "temp view"])
def test_files_overwritten_in_place_are_noticed(spark, written, temporary, again):
    path = temporary / "rows.csv"

    def source():
        path.stat()
        return spark.read.csv(str(path), schema="x float, y int")

    path.write_text("10,0\n11,1\n")
    df = source()
    df.createOrReplaceTempView("rows_of_reuse")
    assert written(df)[0] == [10, 11]
    before = path.stat()
    path.write_text("20,0\n21,1\n")
    # the same length and, to the clock of a file system, the same time
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    later = {
        "read again": source,
        "same DataFrame": lambda: df,
        "other plan": lambda: source().selectExpr("x + 0 x", "y"),
        "temp view": lambda: spark.table("rows_of_reuse"),
    }[again]()
    assert written(later)[0] == [20, 21]


def test_a_directory_overwritten_by_spark_is_noticed(spark, written, temporary):
    save(rows(spark, 10), temporary / "a")
    assert written(spark.read.parquet(str(temporary / "a")))[0] == [10, 11, 12]
    save(rows(spark, 20), temporary / "a")
    assert written(spark.read.parquet(str(temporary / "a")))[0] == [20, 21, 22]


def test_appended_rows_are_read_by_who_reads_again(spark, written, temporary):
    save(rows(spark, 10), temporary / "a")
    before = spark.read.parquet(str(temporary / "a"))
    save(rows(spark, 20, 1), temporary / "a", "append")
    # made before the append, written after it
    assert written(before)[0] == [10, 11, 12]
    assert written(spark.read.parquet(str(temporary / "a")))[0] == [10, 11, 12, 20]


def test_one_partition_overwritten_is_noticed(spark, written, temporary):
    path = temporary / "parts"
    for part, first in ((0, 10), (1, 20)):
        save(rows(spark, first, 1), path / f"part={part}")
    first = written(spark.read.parquet(str(path)))
    assert first[0] == [10, 20]
    save(rows(spark, 30, 1), path / "part=1")
    assert written(spark.read.parquet(str(path)))[0] == [10, 30]


@pytest.mark.parametrize("changed", ["left", "right", "subquery"])
def test_each_of_several_sources_is_watched(spark, written, temporary, changed):
    for name, first in (("left", 10), ("right", 20), ("subquery", 10)):
        save(rows(spark, first), temporary / name)

    def source():
        read = {n: spark.read.parquet(str(temporary / n)) for n in ("left", "right", "subquery")}
        read["subquery"].createOrReplaceTempView("asked_of_reuse")
        return read["left"].union(read["right"]).where("x >= (select min(x) from asked_of_reuse)")

    assert written(source())[0] == [10, 11, 12, 20, 21, 22]
    save(rows(spark, 21), temporary / changed)
    found = {
        "left": [20, 21, 21, 22, 22, 23],
        "right": [10, 11, 12, 21, 22, 23],
        "subquery": [21, 22],
    }[changed]
    assert written(source())[0] == found


def test_a_table_that_is_inserted_into_and_overwritten_is_noticed(spark, written, temporary):
    spark.sql(f"create table reused (x float, y int) using parquet location '{temporary}/table'")
    try:
        spark.sql("insert into reused values (10, 0)")
        assert written(spark.table("reused"))[0] == [10]
        spark.sql("insert into reused values (11, 1)")
        assert written(spark.table("reused"))[0] == [10, 11]
        spark.sql("insert overwrite reused values (20, 0)")
        assert written(spark.table("reused"))[0] == [20]
    finally:
        spark.sql("drop table reused")


def test_a_cached_dataframe_gives_what_spark_gives(spark, written, temporary):
    path = temporary / "rows.csv"
    path.write_text("10,0\n11,1\n")
    df = spark.read.csv(str(path), schema="x float, y int").cache()
    try:
        df.count()
        first = written(df)
        path.write_text("20,0\n21,1\n")
        # Spark's cache still holds the first rows
        assert [row.x for row in df.collect()] == first[0] == [10, 11]
        assert written(df)[0] == [10, 11]
        df.unpersist()
        assert written(df)[0] == [20, 21]
    finally:
        df.unpersist()


def test_rows_of_an_rdd_over_a_file_are_compared_by_content(spark, written, temporary):
    path = temporary / "rows.txt"
    path.write_text("10\n11\n")
    df = spark.sparkContext.textFile(str(path)).map(lambda line: (float(line), 0)).toDF(["x", "y"])
    assert not sources_of(df).watched
    first = written(df)
    assert first[0] == [10, 11]
    assert written(df) == first
    path.write_text("20\n21\n")
    assert written(df)[0] == [20, 21]


def test_rows_in_memory_are_known_by_their_plan(spark, written):
    frames = [spark.createDataFrame([(float(v), 0)], "x float, y int") for v in (10, 10, 20)]
    assert all(sources_of(df).watched for df in frames)
    found = [written(df) for df in frames]
    assert found[0] == found[1]
    assert [values for values, _ in found] == [[10], [10], [20]]


def test_files_that_are_gone_are_spark_s_error(spark, written, temporary):
    save(rows(spark, 10), temporary / "a")
    df = spark.read.parquet(str(temporary / "a"))
    assert written(df)[0] == [10, 11, 12]
    save(rows(spark, 20), temporary / "a")
    with pytest.raises(Exception, match=r"(?s)(does not exist|FILE_NOT_EXIST)"):
        written(df)


def test_file_systems_other_than_the_local_one_are_listed_anew(spark, temporary, monkeypatch):
    from spark_dlobd.data import sources

    path = temporary / "a[1]"
    save(rows(spark, 10), path)
    reader = spark.read.option("__globPaths__", "false")
    df = reader.parquet(str(path))
    local = sources_of(df)
    # what is not file:/ goes through Spark; only the local one is at hand here
    monkeypatch.setattr(sources, "_LOCAL", "nothing:/")
    first = sources_of(df)
    assert first.watched
    assert {file[:3] for file in first.files} == {file[:3] for file in local.files}
    assert sources_of(df) == first
    (file,) = glob.glob(f"{glob.escape(str(path))}/*.parquet")
    os.utime(file, (1, 1))
    assert sources_of(df) != first
    os.remove(file)
    assert not sources_of(df).watched


def test_a_local_file_that_is_gone_has_no_facts(temporary):
    assert _local_facts(str(temporary / "nothing")) is None
    (temporary / "file").write_text("12345")
    assert _local_facts(str(temporary / "file"))[0] == 5
    assert _local_facts(str(temporary / "file" / "below")) is None


def test_fits_of_one_fit_multiple_see_files_that_change_between_them(spark, temporary):
    from spark_dlobd.data.request import Request
    from spark_dlobd.estimators.fitting import SharedDataFits

    path = temporary / "rows.csv"
    path.write_text("10,0\n")
    df = spark.read.csv(str(path), schema="x float, y int")
    columns = ColumnSpec.of(feature_column(df.schema, "x", (1,)), label_column(df.schema, "y"))
    request = Request(columns, None, None, "error")
    fits = SharedDataFits([], df)
    first = fits._get(df, request, 1)
    assert fits._get(df, request, 1) is first
    path.write_text("20,0\n21,0\n")
    assert [data.rows("train") for data in (first, fits._get(df, request, 1))] == [1, 2]
    del fits
