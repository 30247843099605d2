"""Reading materialized rows: which rows, in which order, in which shapes."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_dlobd.data.prefetch import read_ahead
from spark_dlobd.data.reader import ShardReader
from spark_dlobd.data.row_groups import usable_reader
from spark_dlobd.errors import (
    ConfigurationError,
    MissingDependencyError,
    TrainingError,
    TrainingTimeoutError,
)
from spark_dlobd.job.columns import ColumnSpec, TensorColumn
from spark_dlobd.job.dataset import DatasetRef, RowGroup
from spark_dlobd.job.plan import ShardPlan
from spark_dlobd.processes.versions import petastorm_problem

LIBRARY = "pyarrow"
needs_petastorm = pytest.mark.skipif(bool(petastorm_problem()), reason="petastorm is not there")


@pytest.fixture(autouse=True, params=["petastorm", "pyarrow"])
def library(request, monkeypatch):
    """Every test reads through both."""
    if request.param == "petastorm" and (problem := petastorm_problem()):
        pytest.skip(problem)
    monkeypatch.setattr(sys.modules[__name__], "LIBRARY", request.param)
    return request.param


def write(directory, counts, *, dtype="float32", shape=(2, 3), weight=False) -> DatasetRef:
    """Files as `materialize` lays them out; row `i` holds `i` in features and label."""
    takes = "float32" if dtype == "uint8" else None
    spec = ColumnSpec.of(
        TensorColumn("x", dtype, shape, takes=takes),
        TensorColumn("y", "int32", (), num_classes=1000),
        TensorColumn("w", "float32", ()) if weight else None,
    )
    groups = []
    first = 0
    for index, count in enumerate(counts):
        ids = np.arange(first, first + count)
        first += count
        raw = [np.full(shape, i % 251, dtype=dtype).tobytes() for i in ids]
        columns = {
            "features": pa.array(raw, pa.binary()),
            "label": pa.array(ids.astype(np.int32)),
        }
        if weight:
            columns["weight"] = pa.array((ids / 2).astype(np.float32))
        path = directory / f"part-{index:05d}.parquet"
        pq.write_table(pa.table(columns), path, compression="none", use_dictionary=False)
        groups.append(RowGroup(path.as_uri(), count))
    return DatasetRef(directory.as_uri(), spec, tuple(groups), reader=LIBRARY)


def labels(reader: ShardReader, epoch: int) -> list[int]:
    reader.epoch = epoch
    return [int(y) for block in reader.blocks() for y in block.arrays[1]]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_once_an_epoch_with_its_own_features(tmp_path, world, shuffle):
    data = write(tmp_path, (10, 7, 13, 1))
    plan = ShardPlan.of(data.train, world, batch_size=6, seed=1, shuffle=shuffle)
    for epoch in (0, 1):
        seen = []
        for rank in range(world):
            reader = ShardReader(data, "train", plan, rank, window_bytes=100)
            reader.epoch = epoch
            for block in reader.blocks():
                assert block.arrays[0].shape == (block.rows, 2, 3)
                assert (block.arrays[0] == block.arrays[1][:, None, None] % 251).all()
                seen += block.arrays[1].tolist()
            assert reader.rows_read == plan.rows(rank)
        assert sorted(seen) == list(range(31))


def test_without_shuffle_the_order_is_that_of_the_files(tmp_path):
    data = write(tmp_path, (4, 3, 5))
    plan = ShardPlan.of(data.train, 2, batch_size=4, seed=0, shuffle=False)
    assert labels(ShardReader(data, "train", plan, 0), 3) == [0, 1, 2, 3, 4, 5]
    assert labels(ShardReader(data, "train", plan, 1), 3) == [6, 7, 8, 9, 10, 11]


def test_same_plan_rank_and_epoch_give_the_same_order_in_any_reader(tmp_path):
    data = write(tmp_path, (40, 40, 40))
    plan = ShardPlan.of(data.train, 2, batch_size=8, seed=4)
    first, second = (ShardReader(data, "train", plan, 1, block_bytes=size) for size in (50, 10_000))
    assert labels(first, 2) == labels(second, 2)
    assert labels(first, 3) != labels(second, 2)
    assert labels(first, 2) != sorted(labels(first, 2))


def test_files_are_read_in_the_order_of_the_plan(tmp_path):
    data = write(tmp_path, (5,) * 12)
    plan = ShardPlan.of(data.train, 1, batch_size=5, seed=8)
    order = [piece.group for piece in plan.ranges(1, 0)]
    assert order != sorted(order)
    read = labels(ShardReader(data, "train", plan, 0, window_bytes=1), 1)
    assert [read[i] // 5 for i in range(0, 60, 5)] == order


def expected_order(plan: ShardPlan, epoch: int, rank: int, window_rows: int) -> list[int]:
    """The documented order, with plain arrays: windows of whole pieces, each shuffled."""
    starts = np.cumsum([0, *plan.row_counts])
    generator = plan.row_generator(epoch, rank)
    full = plan.local_batch_sizes(rank)[0]
    steps_left = plan.steps_per_epoch - 1
    order: list[int] = []
    pending: list[int] = []
    fresh = 0
    ranges = plan.ranges(epoch, rank)
    for index, (group, start, stop) in enumerate(ranges):
        pending += range(starts[group] + start, starts[group] + stop)
        fresh += stop - start
        if fresh < window_rows and index < len(ranges) - 1:
            continue
        rows = np.array(pending)[generator.permutation(len(pending))].tolist()
        steps = min(len(rows) // full, steps_left)
        order += rows[: steps * full]
        pending = rows[steps * full :]
        steps_left -= steps
        fresh = 0
    return order + pending


@pytest.mark.parametrize("block_bytes", [1, 200, 10_000])
@pytest.mark.parametrize("window_rows", [1, 10, 25, 1000])
@pytest.mark.parametrize("world", [1, 3])
def test_order_is_that_of_a_shuffle_with_plain_arrays(tmp_path, world, window_rows, block_bytes):
    data = write(tmp_path, (10, 7, 13, 1, 9, 12), weight=True)
    plan = ShardPlan.of(data.train, world, batch_size=6, seed=5)
    row_bytes = 24 + 4 + 4
    for rank in range(world):
        reader = ShardReader(
            data,
            "train",
            plan,
            rank,
            window_bytes=window_rows * row_bytes,
            block_bytes=block_bytes,
        )
        for epoch in (0, 3):
            reader.epoch = epoch
            read = []
            for block in reader.blocks():
                assert (block.arrays[0] == block.arrays[1][:, None, None]).all()
                assert (block.arrays[2] == block.arrays[1] / 2).all()
                read += block.arrays[1].tolist()
            assert read == expected_order(plan, epoch, rank, window_rows)


def test_blocks_hold_whole_steps_and_the_last_step_is_its_own(tmp_path):
    data = write(tmp_path, (20, 11))
    plan = ShardPlan.of(data.train, 2, batch_size=6, seed=0)
    reader = ShardReader(data, "train", plan, 0, window_bytes=300)
    sizes = [block.rows // block.steps for block in reader.blocks() for _ in range(block.steps)]
    assert tuple(sizes) == plan.local_batch_sizes(0) == (3, 3, 3, 3, 3)
    reader = ShardReader(data, "train", plan, 1)
    sizes = [block.rows // block.steps for block in reader.blocks() for _ in range(block.steps)]
    assert tuple(sizes) == plan.local_batch_sizes(1) == (3, 3, 3, 3, 4)


@pytest.mark.parametrize("weight", [False, True])
def test_dataset_yields_one_element_a_step(tmp_path, weight):
    data = write(tmp_path, (20, 11), weight=weight)
    plan = ShardPlan.of(data.train, 2, batch_size=6, seed=0)
    reader = ShardReader(data, "train", plan, 1)
    dataset = reader.dataset()
    assert int(dataset.cardinality()) == 5
    for epoch in (0, 1):
        expected = labels(reader, epoch)
        seen = []
        sizes = []
        for element in dataset.as_numpy_iterator():
            assert len(element) == (3 if weight else 2)
            x, y = element[:2]
            assert x.shape == (len(y), 2, 3) and x.dtype == np.float32
            assert (x[:, 0, 0] == y).all()
            if weight:
                assert (element[2] == y / 2).all()
            seen += y.tolist()
            sizes.append(len(y))
        assert tuple(sizes) == (3, 3, 3, 3, 4)
        assert seen == expected


def test_dataset_casts_whole_batches_and_keeps_bytes_narrow_until_then(tmp_path):
    data = write(tmp_path, (9,), dtype="uint8", shape=(2, 2, 1))
    plan = ShardPlan.of(data.train, 1, batch_size=3, seed=0)
    reader = ShardReader(data, "train", plan, 0)
    assert next(iter(reader.blocks())).arrays[0].dtype == np.uint8
    x, y = next(reader.dataset().as_numpy_iterator())
    assert x.dtype == np.float32
    assert x.tolist() == [[[[float(i)], [float(i)]], [[float(i)], [float(i)]]] for i in y]


@pytest.mark.parametrize("steps", [None, 4])
def test_keras_reads_a_new_epoch_each_time(tmp_path, steps):
    import keras

    data = write(tmp_path, (8, 8), shape=(4,))
    plan = ShardPlan.of(data.train, 2, batch_size=4, seed=0)
    reader = ShardReader(data, "train", plan, 0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    begun = []
    produce = reader._produce
    reader._produce = lambda epoch: (begun.append(epoch), produce(epoch))[1]

    class SetEpoch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            reader.epoch = epoch

    model.fit(reader.dataset(), epochs=3, steps_per_epoch=steps, callbacks=[SetEpoch()], verbose=0)
    assert begun == [0, 1, 2]
    assert int(model.optimizer.iterations) == 12


STEPS_THAT_ALLOCATE = """
import resource
import tensorflow as tf
from tests.unit import test_reader
from tests.unit.test_reader import ShardPlan, ShardReader, write
from pathlib import Path
import sys

test_reader.LIBRARY = sys.argv[2]

data = write(Path(sys.argv[1]), (40,), shape=(4,))
reader = ShardReader(data, "train", ShardPlan.of(data.train, 1, batch_size=1, seed=0), 0)

@tf.function
def step():
    # what TensorFlow cannot keep in one buffer: layers of activations, freed one by one
    values = [tf.random.uniform((300_000,)) for _ in range(8)]
    return tf.add_n([tf.reduce_sum(value) for value in values])

faults = []
for _ in reader.dataset():
    step()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print((faults[-1] - faults[9]) / len(faults[9:]))
"""


def test_a_step_finds_the_memory_of_the_last_one(tmp_path, library):
    run = subprocess.run(
        [sys.executable, "-c", STEPS_THAT_ALLOCATE, str(tmp_path), library],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert float(run.stdout.split()[-1]) < 300, "the pages of 8 arrays are 2344"


def test_file_that_changed_is_an_error(tmp_path):
    data = write(tmp_path, (8, 8))
    plan = ShardPlan.of(data.train, 1, batch_size=4, seed=0)
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", (8, 7))
    (tmp_path / "other" / "part-00001.parquet").rename(tmp_path / "part-00001.parquet")
    reader = ShardReader(data, "train", plan, 0)
    with pytest.raises(TrainingError, match=r"part-00001.parquet gave 7 rows, its footer said 8"):
        list(reader.blocks())
    assert isinstance(reader.error, TrainingError)
    assert reader.rows_read == 0


def test_an_idle_rank_reads_nothing(tmp_path):
    data = write(tmp_path, [1])
    plan = ShardPlan.of(data.train, 2, 2, seed=0, shuffle=False, idle_ranks=True)
    readers = [ShardReader(data, "train", plan, rank) for rank in range(2)]
    assert [[block.rows for block in reader.blocks()] for reader in readers] == [[], [1]]
    assert [reader.rows_read for reader in readers] == [0, 1]
    assert [len(list(reader.dataset())) for reader in readers] == [0, 1]


def test_plan_of_other_data_is_refused(tmp_path):
    data = write(tmp_path, (8, 8))
    with pytest.raises(ConfigurationError, match=r"plan is for 1 row groups of 16 rows.*has 2"):
        ShardReader(data, "train", ShardPlan((16,), 1, 4, 0), 0)


def test_a_pass_given_up_leaves_no_thread(tmp_path):
    data = write(tmp_path, (8,) * 6)
    plan = ShardPlan.of(data.train, 1, batch_size=4, seed=0)
    reader = ShardReader(data, "train", plan, 0, window_bytes=1, block_bytes=1)
    blocks = reader.blocks()
    next(blocks)
    assert any(thread.name == "dlobd-reader" for thread in threading.enumerate())
    blocks.close()
    assert not any(thread.name == "dlobd-reader" for thread in threading.enumerate())
    assert reader.rows_read == 0 and reader.error is None


def test_an_error_between_reading_and_handing_over_leaves_no_thread(tmp_path):
    data = write(tmp_path, (8,) * 6)
    plan = ShardPlan.of(data.train, 1, batch_size=4, seed=0)
    reader = ShardReader(data, "train", plan, 0, window_bytes=1, block_bytes=1)

    def fail(rows, steps):
        raise MemoryError("no room for a block")

    reader._block = fail
    with pytest.raises(MemoryError, match="no room"):
        list(reader.blocks())
    assert isinstance(reader.error, MemoryError)
    assert not any(thread.name == "dlobd-reader" for thread in threading.enumerate())


def without_petastorm(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "petastorm" else found(name)
    )


def test_where_petastorm_is_missing_pyarrow_reads(monkeypatch):
    without_petastorm(monkeypatch)
    assert usable_reader() == "pyarrow"
    assert usable_reader("pyarrow") == "pyarrow"
    with pytest.raises(MissingDependencyError, match=r"'petastorm' .* not installed.*'pyarrow'"):
        usable_reader("petastorm")


@pytest.mark.parametrize(("name", "found"), [("numpy", "2.4.6"), ("pyarrow", "25.0.1")])
def test_where_petastorm_breaks_pyarrow_reads(monkeypatch, name, found):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    versions = {"numpy": "1.26.4", "pyarrow": "14.0.2", name: found}
    monkeypatch.setattr("spark_dlobd.processes.versions._version", versions.__getitem__)
    assert usable_reader() == "pyarrow"
    with pytest.raises(MissingDependencyError, match=f"needs {name} below .*, this is {found}"):
        usable_reader("petastorm")


def test_a_worker_without_the_readers_library_says_so(tmp_path, monkeypatch):
    data = dataclasses.replace(write(tmp_path, (4,)), reader="petastorm")
    without_petastorm(monkeypatch)
    plan = ShardPlan.of(data.train, 1, batch_size=2, seed=0)
    with pytest.raises(MissingDependencyError, match="petastorm is not installed"):
        list(ShardReader(data, "train", plan, 0).blocks())


@needs_petastorm
def test_petastorm_still_has_the_limit_that_is_lifted():
    from petastorm.workers_pool.ventilator import ConcurrentVentilator

    assert ConcurrentVentilator(print, [{}, {}])._max_ventilation_queue_size == 2


@needs_petastorm
def test_petastorm_still_takes_its_results_from_where_tables_are_taken(tmp_path):
    from petastorm.reader import Reader
    from petastorm.workers_pool.dummy_pool import DummyPool

    from spark_dlobd.data.petastorm_source import _ArrowResults, _opened

    data = write(tmp_path, (4,))
    with _opened([data.train[0].url], ["features", "label"]) as reader:
        assert isinstance(reader, Reader) and isinstance(reader._workers_pool, DummyPool)
        assert isinstance(reader._results_queue_reader, _ArrowResults)
        table = next(reader)
        assert type(table) is pa.Table
        assert table.column("label").to_pylist() == [0, 1, 2, 3]
        with pytest.raises(StopIteration):
            next(reader)
        assert reader.last_row_consumed


def replace_features(data: DatasetRef, values: list[bytes | None]) -> None:
    path = data.train[0].url.removeprefix("file://")
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "features", pa.array(values, pa.binary())), path)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([bytes(24), bytes(20), bytes(24)], "tensors of 20 to 24 bytes, 0 of them null"),
        ([bytes(24), None, bytes(24)], "tensors of 0 to 24 bytes, 1 of them null"),
        ([bytes(20)] * 3, r"features of 20 bytes a row, expected 24 for float32 of shape \(2, 3\)"),
    ],
)
def test_tensors_of_another_size_are_an_error(tmp_path, values, found):
    data = write(tmp_path, (3,))
    replace_features(data, values)
    plan = ShardPlan.of(data.train, 1, batch_size=2, seed=0)
    with pytest.raises(TrainingError, match=found):
        list(ShardReader(data, "train", plan, 0).blocks())


def test_blocks_lie_where_tensorflow_takes_them_without_a_copy(tmp_path):
    data = write(tmp_path, (50, 50), weight=True)
    plan = ShardPlan.of(data.train, 1, batch_size=7, seed=0)
    for block in ShardReader(data, "train", plan, 0, block_bytes=500).blocks():
        assert all(array.ctypes.data % 64 == 0 for array in block.arrays)


def test_a_block_is_not_overwritten_by_later_ones(tmp_path):
    data = write(tmp_path, (50, 50))
    plan = ShardPlan.of(data.train, 1, batch_size=7, seed=0)
    blocks = list(ShardReader(data, "train", plan, 0, window_bytes=1, block_bytes=1).blocks())
    assert sorted(i for block in blocks for i in block.arrays[1].tolist()) == list(range(100))
    assert all((block.arrays[0] == block.arrays[1][:, None, None]).all() for block in blocks)


def test_read_ahead_raises_what_the_source_raised():
    def source():
        yield 1
        raise OSError("disk gone")

    with read_ahead(source()) as items:
        assert next(items) == 1
        with pytest.raises(OSError, match="disk gone"):
            next(items)


def test_read_ahead_does_not_wait_forever():
    release = threading.Event()

    def source():
        release.wait(10)
        yield 1

    with (
        read_ahead(source(), wait_timeout_s=0.05) as items,
        pytest.raises(TrainingTimeoutError, match=r"nothing for 0\.05 s"),
    ):
        try:
            next(items)
        finally:
            release.set()
