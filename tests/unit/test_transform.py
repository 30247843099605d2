"""Transformations of batches: how they are called, what may come back, what they draw by."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from spark_dlobd.data.block import Block
from spark_dlobd.data.transform import Transformer, examined, step_seeds
from spark_dlobd.errors import ConfigurationError, ConfigurationTypeError, TrainingError
from spark_dlobd.job.columns import ColumnSpec, Structure, TensorColumn

ONE = ColumnSpec.of(
    TensorColumn("x", "uint8", (2,), takes="float32"), TensorColumn("y", "int64", ())
)
SEVERAL = ColumnSpec(
    (TensorColumn("wide", "float32", (2,), part="w"), TensorColumn("t", "string", (), part="t")),
    (TensorColumn("clicked", "float32", (), part="c"),),
    (TensorColumn("weight", "float32", ()),),
    Structure("dict", ("w", "t")),
    Structure("list", ("c", "s")),
)


def apply(function: Callable[..., Any], columns: ColumnSpec, *arrays: Any, steps: int = 1) -> Any:
    """What becomes of a block, its transformation examined as on the driver."""
    seeds = step_seeds(seed=3, epoch=0, rank=0, steps=steps)
    (block,) = Transformer(examined(function, columns), columns).blocks(
        iter([Block(arrays, steps)]), seeds
    )
    return block.arrays


def rows(count: int = 4) -> tuple[Any, Any]:
    return np.arange(2 * count, dtype=np.uint8).reshape(count, 2), np.arange(count)


def test_inputs_alone_in_the_networks_type() -> None:
    x, y = apply(lambda x: x / 2, ONE, *rows())
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, rows()[0] / 2)
    np.testing.assert_array_equal(y, rows()[1])


def test_labels_too() -> None:
    x, y = apply(lambda x, y: (x, y + 1), ONE, *rows())
    np.testing.assert_array_equal(x, rows()[0])
    np.testing.assert_array_equal(y, rows()[1] + 1)


def test_each_step_has_a_seed_of_its_own_and_repeats() -> None:
    def noisy(x: Any, seed: Any) -> Any:
        return x + tf.random.stateless_normal(tf.shape(x), seed)

    same = np.ones((4, 2), np.uint8), np.arange(4)
    first, _ = apply(noisy, ONE, *same, steps=2)
    again, _ = apply(noisy, ONE, *same, steps=2)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first[:2], first[2:])


def test_seeds_differ_by_epoch_and_rank() -> None:
    each = [step_seeds(1, epoch, rank, 3) for epoch in (0, 1) for rank in (0, 1)]
    assert len({seeds.tobytes() for seeds in each}) == 4


def test_a_function_of_numpy_is_called_where_tensorflow_cannot_trace_it() -> None:
    def sorted_rows(x: Any, seed: Any) -> Any:
        return np.sort(x)[:, ::-1] + np.random.default_rng(seed).normal(size=x.shape)

    assert not examined(sorted_rows, ONE).traced
    x, _ = apply(sorted_rows, ONE, *rows())
    assert x.dtype == np.float32  # made of float64
    again, _ = apply(sorted_rows, ONE, *rows())
    np.testing.assert_array_equal(x, again)


@pytest.mark.parametrize("inside", [False, True])
def test_keras_layers_train_and_draw_by_the_seed_of_the_step(inside: bool) -> None:
    layers = keras.Sequential([keras.layers.GaussianNoise(1.0), keras.layers.GaussianNoise(1.0)])

    def function(x: Any) -> Any:
        return layers(x, training=True)

    same = np.ones((4, 2), np.uint8), np.arange(4)
    used = function if inside else layers
    first, _ = apply(used, ONE, *same, steps=2)
    again, _ = apply(used, ONE, *same, steps=2)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first[:2], first[2:])


def test_two_layers_draw_other_numbers() -> None:
    noise = [keras.layers.GaussianNoise(1.0) for _ in range(2)]

    def difference(x: Any) -> Any:
        return noise[0](x, training=True) - noise[1](x, training=True)

    x, _ = apply(difference, ONE, *rows())
    assert np.abs(x).min() > 0


def test_numbers_that_no_seed_decides_are_noticed() -> None:
    assert examined(lambda x: x + tf.random.normal(tf.shape(x)), ONE).draws
    assert examined(lambda x: tf.map_fn(lambda r: r + tf.random.normal([2]), x), ONE).draws
    assert not examined(keras.layers.GaussianNoise(0.1), ONE).draws
    assert not examined(lambda x: x + keras.random.normal(tf.shape(x)), ONE).draws


def test_several_inputs_by_name_with_strings_and_an_output_without_a_label() -> None:
    def change(x: Any, y: Any) -> Any:
        assert set(x) == {"w", "t"}
        clicked, absent = y
        assert absent is None
        return {"t": tf.strings.upper(x["t"]), "w": -x["w"]}, (1 - clicked, None)

    arrays = [np.ones((2, 2), np.float32), np.array([b"a", b"b"], object)]
    label, weight = np.zeros(2, np.float32), np.array([1, 2], np.float32)
    w, t, c, kept = apply(change, SEVERAL, *arrays, label, weight)
    np.testing.assert_array_equal(w, -np.ones((2, 2)))
    assert t.tolist() == [b"A", b"B"]
    np.testing.assert_array_equal(c, [1, 1])
    np.testing.assert_array_equal(kept, weight)


def test_strings_through_numpy() -> None:
    def change(x: Any) -> Any:
        return {**x, "t": np.array([text.decode() + "!" for text in np.asarray(x["t"])])}

    arrays = [np.ones((2, 2), np.float32), np.array([b"a", b"b"], object)]
    _, t, *_ = apply(change, SEVERAL, *arrays, np.zeros(2, np.float32), np.ones(2, np.float32))
    assert t.tolist() == [b"a!", b"b!"]


def test_bfloat16() -> None:
    columns = ColumnSpec.of(TensorColumn("x", "bfloat16", (2,)), TensorColumn("y", "int64", ()))
    x, _ = apply(lambda x: x * 2, columns, np.ones((2, 2), ml_dtypes.bfloat16), np.arange(2))
    assert x.dtype == ml_dtypes.bfloat16
    assert float(x[0, 0]) == 2.0


def test_what_takes_training_and_others_with_defaults() -> None:
    def change(x: Any, factor: float = 2.0, *, training: bool = False) -> Any:
        return x * (factor if training else 0.0)

    x, _ = apply(change, ONE, *rows())
    np.testing.assert_array_equal(x, rows()[0] * 2.0)
    x, _ = apply(functools.partial(change, factor=3.0), ONE, *rows())
    np.testing.assert_array_equal(x, rows()[0] * 3.0)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x[:, :1], r"float32 of shape \(rows, 2\) for 'x'. Got .* \(rows, 1\)"),
        (lambda x: tf.cast(x, tf.int32), "Expected float32 .* Got int32"),
        (lambda x: None, "Got None for 'x': does it end with a return"),
        (lambda x, y: x, r"Expected \(x, y\), because it takes both"),
        (lambda x, y, w: x, r"f\(x\) or f\(x, y\).* Got one with the parameters \(x, y, w\)"),
        (lambda x, *, how: x, "Got one with the parameters"),
        (lambda: None, "Got one with the parameters"),
        (lambda x: x.nothing, "Traced by TensorFlow it raised AttributeError.*\n.*zeros it raised"),
        (lambda x: x.numpy()[:, 0], "Traced by TensorFlow it raised"),
    ],
)
def test_what_cannot_be_used_is_refused(function: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        examined(function, ONE)


def test_an_input_that_is_left_out() -> None:
    with pytest.raises(ConfigurationError, match=r"dict of 'w', 't'\. Got a dict of 'w'"):
        examined(lambda x: {"w": x["w"]}, SEVERAL)


@pytest.mark.parametrize("wrong", [3, "augment", str])
def test_what_is_no_function(wrong: Any) -> None:
    with pytest.raises(ConfigurationTypeError, match="transformation must be a function"):
        examined(wrong, ONE)


def test_other_rows_than_given() -> None:
    with pytest.raises(TrainingError, match="gave 1 rows of 'x' for a batch of 4"):
        apply(lambda x: x[:1], ONE, *rows())


def test_ranks_that_share_a_layer_do_not_share_its_numbers() -> None:
    """Threads of several readers in one process: each gets what its own seed gives."""
    layer = keras.layers.GaussianNoise(1.0)
    transformation = examined(layer, ONE)
    same = np.ones((64, 2), np.uint8), np.arange(64)

    def run(rank: int) -> Any:
        (block,) = Transformer(transformation, ONE).blocks(
            iter([Block(same, 32)]), step_seeds(0, 0, rank, 32)
        )
        return block.arrays[0]

    alone = [run(rank) for rank in range(4)]
    together: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda rank=rank: together.update({rank: run(rank)}))
        for rank in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for rank in range(4):
        np.testing.assert_array_equal(together[rank], alone[rank])
