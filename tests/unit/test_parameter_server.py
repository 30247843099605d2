"""Parameter servers without a cluster: chunks, their readers, rows of tables, settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spark_dlobd import ParameterServerConfig
from spark_dlobd.backends import registry
from spark_dlobd.backends.parameter_server import checks, source
from spark_dlobd.backends.parameter_server.chunks import ChunkPlan
from spark_dlobd.backends.parameter_server.source import NO_CHUNK, source_for
from spark_dlobd.backends.parameter_server.task import servers_of_task
from spark_dlobd.data.reader import ShardReader
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.job.dataset import RowGroup
from spark_dlobd.processes.channel import EventClient, EventServer
from tests.unit.test_reader import write


def rows_of(plan: ChunkPlan, epoch: int) -> list[tuple[int, int]]:
    return [
        (piece.group, row)
        for chunk in range(plan.chunks_per_epoch)
        for piece in plan.ranges(epoch, chunk)
        for row in range(piece.start, piece.stop)
    ]


@pytest.mark.parametrize("steps_per_chunk", [1, 2, 5, 100])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_is_in_one_chunk(steps_per_chunk: int, shuffle: bool) -> None:
    plan = ChunkPlan((10, 0, 7, 13, 1), 4, steps_per_chunk, seed=1, shuffle=shuffle)
    everything = [(g, r) for g, count in enumerate(plan.row_counts) for r in range(count)]
    for epoch in (0, 1):
        assert sorted(rows_of(plan, epoch)) == everything
    assert (rows_of(plan, 0) != rows_of(plan, 1)) == shuffle


def test_chunks_are_whole_steps_but_for_the_last() -> None:
    plan = ChunkPlan((31,), batch_size=4, steps_per_chunk=3, seed=0)
    assert (plan.steps_per_epoch, plan.chunks_per_epoch) == (8, 3)
    assert [plan.local_batch_sizes(chunk) for chunk in range(3)] == [
        (4, 4, 4),
        (4, 4, 4),
        (4, 3),
    ]
    assert [plan.first_step(chunk) for chunk in range(3)] == [0, 3, 6]


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_every_chunk_is_scheduled_once(workers: int) -> None:
    plan = ChunkPlan((23,), 2, 1, seed=0)
    assert sorted(plan.order(workers)) == list(range(12))


def taken(source: Any, epoch: int, chunks: list[int]) -> list[int]:
    labels: list[int] = []
    for chunk, following in zip(chunks, [*chunks[1:], NO_CHUNK], strict=True):
        features, label, worker, seconds = source.take(np.array([epoch, chunk, following]))
        assert (features == label[:, None, None] % 251).all()
        assert worker == 4
        assert seconds >= 0
        labels += label.tolist()
    return labels


@pytest.mark.parametrize("ahead", [True, False])
def test_any_worker_reads_any_chunk(tmp_path: Path, ahead: bool) -> None:
    data = write(tmp_path, (10, 7, 13, 1))
    plan = ChunkPlan((10, 7, 13, 1), 4, 2, seed=3)
    source = source_for(data, "train", plan, worker=4, workers=2)
    order = plan.order(2)
    if ahead:
        labels = taken(source, 0, order)
    else:
        labels = [label for chunk in order for label in taken(source, 0, [chunk])]
    assert sorted(labels) == list(range(31))


def test_a_wrong_guess_of_the_next_chunk_costs_only_time(tmp_path: Path) -> None:
    data = write(tmp_path, (10, 7))
    plan = ChunkPlan((10, 7), 2, 1, seed=3, shuffle=False)
    source = source_for(data, "train", plan, worker=0, workers=2)
    source.take(np.array([0, 0, 5]))
    _, label, _, _ = source.take(np.array([0, 3, NO_CHUNK]))
    assert label.tolist() == [6, 7]


def test_the_only_worker_reads_in_the_order_of_one_reader(tmp_path: Path) -> None:
    data = write(tmp_path, (10, 7, 13, 1))
    plan = ChunkPlan((10, 7, 13, 1), 4, 3, seed=3)
    source = source_for(data, "train", plan, worker=4, workers=1)
    for epoch in (0, 1):
        reader = ShardReader(data, "train", plan.rows_plan, 0)
        reader.epoch = epoch
        expected = [int(y) for block in reader.blocks() for y in block.arrays[1]]
        assert taken(source, epoch, [0, 1, 2]) == expected


def test_a_worker_started_again_finds_its_place(tmp_path: Path) -> None:
    data = write(tmp_path, (10, 7, 13, 1))
    plan = ChunkPlan((10, 7, 13, 1), 4, 3, seed=3)
    first = source_for(data, "train", plan, worker=4, workers=1)
    whole = taken(first, 1, [0, 1, 2])
    again = source_for(data, "train", plan, worker=4, workers=1)
    assert taken(again, 1, [1, 2]) == whole[12:]
    assert taken(again, 1, [1]) == whole[12:24]


def test_servers_are_dealt_from_the_last_task_down() -> None:
    assert [servers_of_task(task, 2, 1) for task in range(2)] == [[], [0]]
    assert [servers_of_task(task, 3, 5) for task in range(3)] == [[2], [1, 4], [0, 3]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_ps": 0}, "num_ps must be an int of at least 1. Got 0"),
        ({"steps_per_call": 0}, "steps_per_call must be an int of at least 1. Got 0"),
        ({"port_range": (80, 90)}, r"port_range must be None or \(first, last\)"),
        ({"port_range": (3000, 2000)}, "port_range must be"),
        ({"port_range": 3000}, "port_range must be"),
        ({"max_restarts": -1}, "max_restarts must be an int of at least 0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ParameterServerConfig(**options)


def test_config_survives_the_param() -> None:
    config = ParameterServerConfig(num_ps=2, port_range=(4000, 4010), environment={"A": "b"})
    assert registry.from_param(registry.to_param(config)) == config
    assert registry.from_param("parameter_server") == ParameterServerConfig()


@pytest.mark.parametrize(
    ("compiled", "message"),
    [
        ({"jit_compile": True}, "cannot compile a step with XLA"),
        ({"run_eagerly": True}, "runs steps as graphs"),
        ({"optimizer": {"class_name": "LossScaleOptimizer"}}, "has no loss scaling"),
        ({"optimizer": {"class_name": "SGD", "config": {"use_ema": True}}}, "use_ema=True"),
    ],
)
def test_what_is_not_supported(compiled: dict[str, Any], message: str) -> None:
    assert [message in problem for problem in checks.problems(compiled)] == [True]
    assert list(checks.problems({"optimizer": {"class_name": "SGD", "config": {}}})) == []


def test_optimizers_that_cannot_update_rows() -> None:
    assert list(checks.row_problems("Adam", {"clipnorm": None})) == []
    assert "optimizer Lamb cannot" in next(checks.row_problems("Lamb", {}))
    assert "weight_decay=0.1" in next(checks.row_problems("AdamW", {"weight_decay": 0.1}))


def test_a_follower_sees_that_the_leader_has_left() -> None:
    with EventServer("127.0.0.1", "127.0.0.1") as server:
        client = EventClient(server.address, 1)
        assert not client.closed_by_peer(0.05)
    assert client.closed_by_peer(5.0)
    client._socket.close()


def test_a_graph_calls_the_function_of_the_process_it_runs_in() -> None:
    """The private registry of ``script_ops``; in a process of its own, which it changes."""
    code = (
        "import numpy as np, tensorflow as tf\n"
        "from spark_dlobd.backends.parameter_server.tokens import call_function\n"
        "from spark_dlobd.backends.parameter_server.tokens import register_function\n"
        "class Doubler:\n"
        "    def double(self, x): return x * 2\n"
        "register_function('double', Doubler().double)\n"
        "graph = tf.function(lambda x: call_function('double', [x], [tf.int64])[0])\n"
        "assert graph(tf.constant([1, 4], tf.int64)).numpy().tolist() == [2, 8]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def table_model(rows: int = 6) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    ids = keras.Input((2,), dtype="int32")
    found = keras.layers.Flatten()(keras.layers.Embedding(rows, 3, name="table")(ids))
    return keras.Model(ids, keras.layers.Dense(1, name="top")(found))


def test_a_spread_table_looks_up_and_saves_as_the_plain_one(tmp_path: Path) -> None:
    import keras

    from spark_dlobd.backends.parameter_server.embedding import spread_embeddings

    ids = np.array([[0, 5], [3, 3]])
    plain, spread = table_model(7), table_model(7)
    pieces = spread_embeddings(spread, servers=3, min_partition_bytes=0)
    assert [tuple(piece.shape) for piece in pieces] == [(3, 3), (2, 3), (2, 3)]
    np.testing.assert_array_equal(spread(ids), plain(ids))
    spread.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(ids), plain(ids))
    assert loaded.get_layer("table").embeddings.shape == (7, 3)


def test_small_tables_stay_whole_and_regularized_ones_are_refused() -> None:
    import keras

    from spark_dlobd.backends.parameter_server.embedding import spread_embeddings

    assert len(spread_embeddings(table_model(), servers=3, min_partition_bytes=1000)) == 1
    layer = keras.layers.Embedding(4, 2, embeddings_regularizer="l2", name="regular")
    model = keras.Sequential([keras.Input((1,), dtype="int32"), layer])
    with pytest.raises(ConfigurationError, match="'regular' has embeddings_regularizer"):
        spread_embeddings(model, 1, 0)


OPTIMIZERS = ["SGD", "Adagrad", "Adam", "RMSprop", "Adamax", "Ftrl", "Lion"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_are_updated_as_a_whole_table_would_be(name: str) -> None:
    """Every row is touched, some twice, so that lazy and dense updates mean the same."""
    import keras
    import tensorflow as tf

    from spark_dlobd.backends.parameter_server.row_updates import update_rows

    start = np.linspace(-1, 1, 12, dtype="float32").reshape(4, 3)
    values = np.linspace(0.1, 1.5, 15, dtype="float32").reshape(5, 3)
    indices = np.array([2, 0, 3, 2, 1])
    dense = np.zeros((4, 3), "float32")
    np.add.at(dense, indices, values)
    whole, rows = keras.Variable(start), keras.Variable(start)
    for variable, gradient in ((whole, dense), (rows, tf.IndexedSlices(values, indices))):
        optimizer = getattr(keras.optimizers, name)(learning_rate=0.1)
        other = keras.Variable([1.0])  # the table is not the only variable
        optimizer.build([other, variable])
        for _ in range(3):
            if variable is whole:
                optimizer.apply([tf.constant([0.0]), gradient], [other, variable])
            else:
                update_rows(optimizer, variable, gradient, optimizer.learning_rate)
                optimizer.apply([tf.constant([0.0])], [other])
    np.testing.assert_allclose(np.asarray(rows), np.asarray(whole), rtol=1e-5, atol=1e-6)


def test_rows_without_a_gradient_keep_their_state() -> None:
    import keras
    import tensorflow as tf

    from spark_dlobd.backends.parameter_server.row_updates import update_rows

    table = keras.Variable(np.ones((3, 2), "float32"))
    optimizer = keras.optimizers.SGD(0.5, momentum=0.9)
    optimizer.build([table])
    for indices in ([0, 1], [1]):
        gradient = tf.IndexedSlices(np.ones((len(indices), 2), "float32"), np.array(indices))
        update_rows(optimizer, table, gradient, 0.5)
    # row 1: momentum -0.5, then -0.95
    expected = [[0.5, 0.5], [1 - 0.5 - 0.95] * 2, [1, 1]]
    np.testing.assert_allclose(np.asarray(table), expected, rtol=1e-6)


def test_an_embedding_is_seen_in_the_archive() -> None:
    model = table_model()
    from spark_dlobd.training.keras_codec import model_to_archive

    assert {"Embedding", "Dense"} <= checks.class_names(model_to_archive(model))


def test_progress_comes_back(tmp_path: Path) -> None:
    from spark_dlobd.backends.parameter_server.checkpoint import (
        Progress,
        checkpoint_url,
        restore,
        save,
    )

    models = [table_model(), table_model()]
    for model in models:
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
    url = checkpoint_url(tmp_path.as_uri(), "run")
    assert restore(url, models[1]) == Progress(0, {})
    models[0].fit(np.array([[1, 2]]), np.array([1.0]), verbose=0)
    save(url, models[0], Progress(1, {"loss": [0.5]}))
    assert restore(url, models[1]) == Progress(1, {"loss": [0.5]})
    for mine, other in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert int(models[1].optimizer.iterations.numpy()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["progress-run.npz"]


def test_neighbouring_chunks_share_row_groups() -> None:
    groups = [RowGroup(f"file:///{name}", 4) for name in "abc"]
    read: list[str] = []

    def count(wanted: Any, names: Any) -> Any:
        read.extend(group.url[-1] for group in wanted)
        yield from ({"label": np.zeros(group.rows)} for group in wanted)

    recent = source.RecentRowGroups(count, count=2)
    for indices in ([0], [0, 1], [1], [1, 2], [2], [0]):
        found = list(recent.read([groups[i] for i in indices], ["label"]))
        assert len(found) == len(indices)
    assert "".join(read) == "abca"


def test_a_call_whose_result_was_lost_on_the_way_raises() -> None:
    """TensorFlow's own value, whose error comes while its result is fetched."""
    import tensorflow as tf
    from tensorflow.python.distribute.coordinator.values import RemoteValueImpl

    from spark_dlobd.backends.parameter_server.coordinator import fetched

    class LostOnTheWay(RemoteValueImpl):  # type: ignore[misc]
        def _wait_and_maybe_error(self) -> None:
            super()._wait_and_maybe_error()
            self._set_error(tf.errors.UnavailableError(None, None, "/job:ps is gone"))

    lost = LostOnTheWay(None, None)
    lost._set_values({"rows": tf.constant(3)})
    with pytest.raises(tf.errors.UnavailableError, match="/job:ps"):
        fetched(lost)
    whole = RemoteValueImpl(None, None)
    whole._set_error(None)
    assert fetched(whole) is None
