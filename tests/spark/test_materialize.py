"""Writing DataFrames as tensors, and what is refused."""

from __future__ import annotations

import glob
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from spark_dlobd.data.columns import feature_column, label_column, weight_column
from spark_dlobd.data.materialize import (
    ValidationSplit,
    materialize,
    missing_validation,
    reuse_data,
)
from spark_dlobd.data.reader import ShardReader
from spark_dlobd.errors import ConfigurationError, DataError
from spark_dlobd.job.columns import ColumnSpec
from spark_dlobd.job.plan import ShardPlan

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A temporary directory of this test's own, which must be empty at the end."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert glob.glob(str(tmp_path / "spark-dlobd-*")) == []


def read(data, split="train", world=1, epoch=0):
    """All rows of a split over all ranks, sorted by label."""
    plan = ShardPlan.of(data.row_groups(split), world, batch_size=max(4, world), seed=0)
    blocks = []
    for rank in range(world):
        reader = ShardReader(data, split, plan, rank)
        reader.epoch = epoch
        blocks += list(reader.blocks())
    features, label, *weights = map(np.concatenate, zip(*(b.arrays for b in blocks), strict=True))
    order = np.argsort(label, axis=0).ravel()
    return features[order], label[order], weights[0][order] if weights else None


def spec(df, shape=(2,), classes=1000, weight=False):
    return ColumnSpec.of(
        feature_column(df.schema, "x", shape),
        label_column(df.schema, "y", num_classes=classes),
        weight_column(df.schema, "w") if weight else None,
    )


def numbers(spark, rows=20, partitions=2):
    return spark.range(0, rows, 1, partitions).selectExpr(
        "array(double(id), id + 0.5D) x", "id y", "id / 4 w", "id % 4 = 0 v"
    )


@pytest.mark.parametrize(
    ("expression", "dtype", "value"),
    [
        ("array(double(id), id + 0.5D)", "float32", lambda i: [i, i + 0.5]),
        ("array(decimal(id), 1.5BD)", "float32", lambda i: [i, 1.5]),
        ("array(tinyint(id), tinyint(-3))", "int8", lambda i: [i, -3]),
        ("array(id, 5000000000)", "float32", lambda i: [i, 5_000_000_000]),
        ("array(id % 2 = 1, true)", "uint8", lambda i: [i % 2, 1]),
        ("unhex(concat('FF', lpad(hex(id), 2, '0')))", "uint8", lambda i: [255, i]),
    ],
)
def test_every_feature_type_arrives_as_its_tensor(spark, expression, dtype, value):
    df = spark.range(7).selectExpr(f"{expression} x", "id y")
    with materialize(df, spec(df)) as data:
        x, y, _ = read(data)
    assert x.dtype == dtype
    assert x.tolist() == [value(i) for i in range(7)]
    assert y.tolist() == list(range(7))
    assert y.dtype == np.int32


def test_dense_and_sparse_vectors(spark):
    from pyspark.ml.linalg import Vectors

    rows = [(Vectors.dense([1.0, 0.0, 2.0, 0.5]), 0), (Vectors.sparse(4, {2: 3.0}), 1)]
    df = spark.createDataFrame(rows, ["x", "y"])
    with materialize(df, spec(df, (2, 2, 1))) as data:
        x, _, _ = read(data)
    assert x.shape == (2, 2, 2, 1)
    assert x.reshape(2, 4).tolist() == [[1, 0, 2, 0.5], [0, 0, 3, 0]]


def test_scalars_weights_and_float_labels(spark):
    df = spark.range(6).selectExpr("id / 2 x", "id * 1.5 y", "id / 4 w")
    columns = ColumnSpec.of(
        feature_column(df.schema, "x", (1,)),
        label_column(df.schema, "y"),
        weight_column(df.schema, "w"),
    )
    with materialize(df, columns) as data:
        x, y, w = read(data)
    assert x.tolist() == [[i / 2] for i in range(6)]
    assert y.tolist() == [i * 1.5 for i in range(6)]
    assert w.tolist() == [i / 4 for i in range(6)]
    assert (x.dtype, y.dtype, w.dtype) == (np.float32,) * 3


def test_labels_of_several_outputs(spark):
    df = spark.range(3).selectExpr("double(id) x", "array(id, id + 1) y")
    columns = ColumnSpec.of(
        feature_column(df.schema, "x", ()), label_column(df.schema, "y", shape=(2,))
    )
    with materialize(df, columns) as data:
        plan = ShardPlan.of(data.train, 1, 3, seed=0, shuffle=False)
        block = next(ShardReader(data, "train", plan, 0).blocks())
    assert sorted(block.arrays[1].tolist()) == [[0, 1], [1, 2], [2, 3]]
    assert block.arrays[0].shape == (3,)


def test_names_with_dots_and_backticks(spark):
    df = spark.range(3).selectExpr("double(id) `a.b`", "id `c``d`")
    columns = ColumnSpec.of(
        feature_column(df.schema, "a.b", ()), label_column(df.schema, "c`d", num_classes=3)
    )
    with materialize(df, columns) as data:
        assert read(data)[1].tolist() == [0, 1, 2]


def test_validation_by_indicator(spark):
    df = numbers(spark)
    with materialize(df, spec(df), validation=ValidationSplit(indicator="v")) as data:
        assert read(data, "validation")[1].tolist() == [0, 4, 8, 12, 16]
        assert read(data, "train")[1].tolist() == [i for i in range(20) if i % 4]
        assert (data.rows("train"), data.rows("validation")) == (15, 5)


def test_validation_by_fraction_is_drawn_from_the_seed(spark):
    df = numbers(spark, rows=400)
    split = ValidationSplit(fraction=0.25, seed=7)
    drawn = []
    for _ in range(2):
        with materialize(df, spec(df), validation=split) as data:
            drawn.append(read(data, "validation")[1].tolist())
            assert data.rows("train") + data.rows("validation") == 400
    assert drawn[0] == drawn[1]
    assert 60 < len(drawn[0]) < 140


def test_one_file_is_one_row_group_of_the_wanted_size(spark):
    df = numbers(spark, rows=1000)
    with materialize(df, spec(df), row_group_bytes=2000) as data:
        sizes = [group.rows for group in data.train]
        assert sum(sizes) == 1000
        assert max(sizes) == 2000 // (8 + 4 + 2 * 4)
        assert data.bytes == sum(os.path.getsize(g.url[len("file://") :]) for g in data.train)


def test_small_data_have_a_file_for_every_worker(spark):
    df = numbers(spark, rows=10, partitions=1)
    with materialize(df, spec(df), world_size=4) as data:
        assert [group.rows for group in data.train] == [2, 3, 2, 3]
        assert read(data, world=4)[1].tolist() == list(range(10))


def test_tiny_files_of_many_partitions_are_joined(spark):
    df = numbers(spark, rows=60, partitions=30)
    with materialize(df, spec(df), world_size=2) as data:
        assert [group.rows for group in data.train] == [30, 30]
        x, y, _ = read(data, world=2)
        assert y.tolist() == list(range(60))
        assert x[:, 0].tolist() == list(range(60))
        assert data.bytes == sum(os.path.getsize(g.url[len("file://") :]) for g in data.train)


def test_uneven_and_empty_partitions(spark):
    df = numbers(spark, rows=50, partitions=4).where("y < 3 or y > 46")
    with materialize(df, spec(df), world_size=2) as data:
        assert read(data, world=2)[1].tolist() == [0, 1, 2, 47, 48, 49]


BAD = """
    SELECT array(1F, 2F) x, 0D y, 1D w, true v UNION ALL
    SELECT array(1F, 2F), 1D, 1D, false UNION ALL
    SELECT null, 1D, 1D, false UNION ALL
    SELECT array(1F, null), 1D, 1D, false UNION ALL
    SELECT array(1F, float('NaN')), 1D, 1D, false UNION ALL
    SELECT array(1F, float('Infinity')), 1D, 1D, false UNION ALL
    SELECT array(1F), 1D, 1D, false UNION ALL
    SELECT array(1F, 2F, 3F), 1D, 1D, false UNION ALL
    SELECT array(1F, 2F), null, 1D, false UNION ALL
    SELECT array(1F, 2F), 0.5D, 1D, false UNION ALL
    SELECT array(1F, 2F), -1D, 1D, false UNION ALL
    SELECT array(1F, 2F), 3D, 1D, false UNION ALL
    SELECT array(1F, 2F), 1D, -1D, false UNION ALL
    SELECT array(1F, 2F), 1D, double('NaN'), false UNION ALL
    SELECT array(1F, 2F), 1D, null, false UNION ALL
    SELECT array(1F, 2F), 1D, 1D, null
"""


def test_bad_rows_are_an_error_that_names_all_of_them(spark):
    df = spark.sql(BAD)
    columns = spec(df, classes=3, weight=True)
    with (
        pytest.raises(DataError) as caught,
        materialize(df, columns, validation=ValidationSplit(indicator="v")),
    ):
        pass
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[0] == "14 of 16 rows are not valid:"
    assert lines[1:-1] == [
        "'x' (features): 1 null",
        "'x' (features): 1 null inside the array",
        "'x' (features): 2 NaN or infinite",
        "'x' (features): 2 wrong length (expected 2 elements for shape (2,), seen 1, 3)",
        "'y' (label): 1 null",
        "'y' (label): 1 not a whole number",
        "'y' (label): 2 outside the classes (expected 0 to 2 for 3 classes, seen -1 to 3)",
        "'w' (weight): 1 null",
        "'w' (weight): 1 NaN or infinite",
        "'w' (weight): 1 negative",
        "'v' (indicator): 1 null",
    ]
    assert "handleInvalid='skip'" in lines[-1]


def test_bad_rows_are_left_out_and_counted_on_demand(spark, caplog):
    df = spark.sql(BAD)
    columns = spec(df, classes=3, weight=True)
    split = ValidationSplit(indicator="v")
    with (
        caplog.at_level("WARNING", logger="spark_dlobd"),
        materialize(df, columns, validation=split, handle_invalid="skip") as data,
    ):
        assert data.skipped_rows == 14
        assert read(data, "train")[1].tolist() == [1]
        assert read(data, "validation")[1].tolist() == [0]
    assert "14 of 16 rows are not valid" in caplog.text


def test_null_vectors_are_counted(spark):
    from pyspark.ml.linalg import Vectors

    df = spark.createDataFrame([(Vectors.dense([1, 2]), 0)], ["x", "y"])
    df = df.union(df.selectExpr("null", "y")).union(
        spark.createDataFrame([(Vectors.dense([1, 2, 3]), 0)], ["x", "y"])
    )
    with (
        pytest.raises(DataError, match=r"(?s)'x' \(features\): 1 null.*seen 3"),
        materialize(df, spec(df)),
    ):
        pass


def test_labels_with_gaps_are_fine(spark):
    df = numbers(spark, rows=3).selectExpr("x", "y * 2 y")
    with materialize(df, spec(df, classes=6)) as data:
        assert read(data)[1].tolist() == [0, 2, 4]


@pytest.mark.parametrize("how", ["empty", "filtered"])
def test_no_rows_is_an_error(spark, how):
    df = numbers(spark)
    df = df.limit(0) if how == "empty" else df.where("y > 100")
    with pytest.raises(DataError, match="no rows"), materialize(df, spec(df)):
        pass


def test_fewer_rows_than_workers_is_an_error(spark):
    df = numbers(spark, rows=3)
    with (
        pytest.raises(DataError, match=r"train split has 3 rows for 4 workers"),
        materialize(df, spec(df), world_size=4),
    ):
        pass


def test_fewer_validation_rows_than_workers_are_read_by_some(spark):
    df = numbers(spark).selectExpr("x", "y", "y = 7 v")
    split = ValidationSplit(indicator="v")
    with materialize(df, spec(df), validation=split, world_size=3) as data:
        assert [group.rows for group in data.validation] == [1]
        plan = ShardPlan.of(data.validation, 3, 4, seed=0, shuffle=False, idle_ranks=True)
        read = [list(ShardReader(data, "validation", plan, rank).blocks()) for rank in range(3)]
    assert [[block.arrays[1].tolist() for block in blocks] for blocks in read] == [[], [], [[7]]]


def test_an_indicator_that_is_nowhere_true_is_no_error(spark):
    df = numbers(spark).selectExpr("x", "y", "y = 1000 v", "y = 3 w")
    for name, held in (("v", 0), ("w", 1)):
        split = ValidationSplit(indicator=name)
        with materialize(df, spec(df), validation=split) as data:
            assert (data.rows("train"), data.rows("validation")) == (20 - held, held)
            said = missing_validation(data, split) or "nothing"
        wanted = "nothing" if held else "trains without validation: 'v' is true in none of the 20"
        assert wanted in said


def test_a_split_that_leaves_nothing_is_an_error(spark):
    df = numbers(spark, rows=3).selectExpr("x", "y", "true a")
    with (
        pytest.raises(DataError, match=r"train split has no rows.*'a' must be"),
        materialize(df, spec(df), validation=ValidationSplit(indicator="a")),
    ):
        pass
    with (
        pytest.raises(DataError, match=r"validation split has no rows.*fraction 1e-09 is too"),
        materialize(df, spec(df), validation=ValidationSplit(fraction=1e-9)),
    ):
        pass


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_files_are_removed_however_the_fit_ends(spark, temporary, error):
    df = numbers(spark)
    try:
        with materialize(df, spec(df)) as data:
            assert os.path.isdir(data.root[len("file://") :])
            assert data.root.startswith(f"file://{temporary}/spark-dlobd-")
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt) as caught:
        assert type(caught) is error
    assert glob.glob(str(temporary / "spark-dlobd-*")) == []


def test_cache_dir_of_the_user(spark, tmp_path):
    df = numbers(spark)
    parent = tmp_path / "with space"
    with materialize(df, spec(df), cache_dir=str(parent), world_size=2) as data:
        assert len(os.listdir(parent)) == 1
        assert read(data, world=2)[1].tolist() == list(range(20))
    assert os.listdir(parent) == []
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigurationError, match=r"cacheDir must be a directory.*file"),
        materialize(df, spec(df), cache_dir=str(tmp_path / "file")),
    ):
        pass


def test_ctrl_c_during_the_write_leaves_no_files(spark, temporary, monkeypatch):
    from spark_dlobd.data import materialize as module

    write = module._write_parquet

    def interrupted(*arguments):
        write(*arguments)
        assert glob.glob(str(temporary / "spark-dlobd-*" / "rows" / "*.parquet"))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_parquet", interrupted)
    df = numbers(spark)
    with pytest.raises(KeyboardInterrupt), materialize(df, spec(df)):
        pass
    assert glob.glob(str(temporary / "spark-dlobd-*")) == []


def test_end_of_the_interpreter_removes_what_is_left(spark, temporary):
    from spark_dlobd.data import storage

    directory = storage.CacheDirectory(spark, None)
    assert os.path.isdir(directory.url[len("file://") :])
    storage._remove_all()
    assert glob.glob(str(temporary / "spark-dlobd-*")) == []
    directory.remove()


def test_cluster_needs_a_shared_cache_dir(spark, monkeypatch):
    from types import SimpleNamespace

    from spark_dlobd.data import storage

    cluster = SimpleNamespace(master="spark://host:7077")
    monkeypatch.setattr(storage, "spark_context", lambda _: cluster)
    with pytest.raises(ConfigurationError, match=r"cacheDir must be set on master 'spark://host"):
        storage.CacheDirectory(spark, None)


def test_failing_source_leaves_no_files(spark):
    df = numbers(spark).selectExpr("x", "raise_error('source broke') y")
    df = df.selectExpr("x", "int(y) y")
    with pytest.raises(Exception, match="source broke"), materialize(df, spec(df)):
        pass


def test_same_column_in_two_roles_is_refused(spark):
    df = numbers(spark)
    columns = ColumnSpec.of(feature_column(df.schema, "y", ()), label_column(df.schema, "y"))
    with (
        pytest.raises(ConfigurationError, match="labelCol and featuresCol must name different"),
        materialize(df, columns),
    ):
        pass


def test_reuse_writes_equal_plans_once(spark, temporary):
    with reuse_data():
        with materialize(numbers(spark), spec(numbers(spark))) as first:
            pass
        with materialize(numbers(spark), spec(numbers(spark)), world_size=2) as second:
            assert read(second, world=2)[1].tolist() == list(range(20))
        assert second == first
        other = numbers(spark, rows=21)
        with materialize(other, spec(other)) as third:
            assert third.root != first.root
        with materialize(other, spec(other, classes=50)) as fourth:
            assert fourth.root != third.root
        assert len(glob.glob(str(temporary / "spark-dlobd-*"))) == 3
    assert glob.glob(str(temporary / "spark-dlobd-*")) == []


def test_reuse_sees_equal_content_behind_different_plans(spark):
    from pyspark.ml.feature import VectorAssembler

    source = spark.range(30).selectExpr("double(id) a", "double(id * 2) b", "id y")
    assembler = VectorAssembler(inputCols=["a", "b"], outputCol="x")
    first_df, second_df = assembler.transform(source), assembler.transform(source)
    assert not first_df.sameSemantics(second_df)
    with reuse_data():
        with materialize(first_df, spec(first_df)) as first:
            pass
        with materialize(second_df, spec(second_df)) as second:
            assert second.root == first.root
        with materialize(assembler.transform(source.where("a > 3")), spec(first_df)) as third:
            assert third.root != first.root


def test_reuse_from_several_threads_writes_once(spark):
    def fit(_):
        df = numbers(spark)
        with materialize(df, spec(df)) as data:
            return data.root, read(data)[1].tolist()

    with reuse_data(), ThreadPoolExecutor(3) as pool:
        found = list(pool.map(fit, range(3)))
    assert len({root for root, _ in found}) == 1
    assert all(rows == list(range(20)) for _, rows in found)


def test_reuse_after_a_failure_tries_again(spark):
    df = numbers(spark, rows=3)
    with reuse_data():
        for _ in range(2):
            with (
                pytest.raises(DataError, match="outside the classes"),
                materialize(df, spec(df, classes=2)),
            ):
                pass


def test_a_fit_whose_indicator_is_nowhere_true_warns_in_its_report(spark, caplog):
    from tests.spark.tiny import X, Y, estimator, linear, squares_step, weights

    rows = [(x.tolist(), float(y), False) for x, y in zip(X, Y, strict=True)]
    df = spark.createDataFrame(rows, "features array<double>, label double, v boolean")
    with caplog.at_level("WARNING", logger="spark_dlobd"):
        model = estimator(linear(), validationIndicatorCol="v").fit(df)
    np.testing.assert_allclose(weights(model), squares_step(X, Y), rtol=1e-5)
    assert set(model.history) == {"loss"}
    assert model.report["rows"] == {"train": 8, "validation": 0}
    (warning,) = model.report["warnings"]
    assert "'v' is true in none of the 8 rows" in warning
    assert warning in caplog.text


def test_nobody_may_wait_for_validation_whose_indicator_is_nowhere_true(spark):
    keras = pytest.importorskip("keras")
    from tests.spark.tiny import estimator, linear

    began = []
    begin = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: began.append(1))
    df = spark.createDataFrame(
        [([1.0, 2.0], 1.0, 0)] * 4, "features array<double>, label double, v int"
    )
    stopping = [keras.callbacks.EarlyStopping(monitor="val_loss"), begin]
    for params, who in (
        ({"callbacks": stopping}, "monitor of EarlyStopping is 'val_loss'"),
        ({"callbacks": [begin], "stopWhen": "val_loss < 1"}, "stopWhen is 'val_loss < 1'"),
    ):
        why = rf"{who}, which needs validation rows\. 'v' is true in none of the 4 rows"
        with pytest.raises(ConfigurationError, match=why):
            estimator(linear(), validationIndicatorCol="v", **params).fit(df)
    assert not began
