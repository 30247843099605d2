"""numpy blocks as a ``tf.data.Dataset``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from spark_dlobd.job.columns import ColumnSpec
from spark_dlobd.processes.python_worker import keep_memory

if TYPE_CHECKING:
    import tensorflow as tf

    from spark_dlobd.data.block import Block

_STEPS_AHEAD = 4


def step_dataset(
    blocks: Callable[[], Iterator[Block]],
    columns: ColumnSpec,
    steps: int,
    transform: Callable[..., tuple[Any, ...]] | None = None,
) -> tf.data.Dataset:
    """One element per step from blocks of many steps. Runs on each worker.

    Python runs once a block; the steps are cut out of it in C++.

    Parameters
    ----------
    blocks : callable
        Starts a pass.
    columns : ColumnSpec
        What the blocks hold.
    steps : int
        Steps of a pass.
    transform : callable, optional
        Function of what a step takes, ``(x, y)`` or ``(x, y, sample_weight)``; runs in the
        thread that reads ahead.
    """
    import tensorflow as tf

    signature = tuple(
        tf.TensorSpec((None, None, *column.shape), tf.as_dtype(column.dtype))
        for column in columns.all
    )
    # Converted functions leave source files in the temporary directory of a killed process.
    plain = tf.autograph.experimental.do_not_convert
    # Slicing a block costs half of what `unbatch` does.
    dataset = tf.data.Dataset.from_generator(
        lambda: _stacked(blocks()), output_signature=signature
    ).flat_map(plain(lambda *block: tf.data.Dataset.from_tensor_slices(block)))
    casts = any(column.takes for column in columns.inputs)
    several = any(side.kind != "one" for side in (columns.x, columns.y))
    if casts or several or transform is not None:

        def prepare(*tensors: Any) -> tuple[Any, ...]:
            element = columns.packed(cast_inputs(columns, tensors))
            return element if transform is None else transform(*element)

        # one function, as each takes milliseconds of an epoch's beginning
        dataset = dataset.map(plain(prepare), num_parallel_calls=1 if casts else None)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    return dataset.prefetch(_STEPS_AHEAD).with_options(_options())


def cast_inputs(columns: ColumnSpec, tensors: Sequence[Any]) -> list[Any]:
    """Tensors of a batch with inputs in the types that the network takes."""
    import tensorflow as tf

    given = list(tensors)
    for place, column in enumerate(columns.inputs):
        if column.takes:
            given[place] = tf.cast(given[place], column.takes)
    return given


def _stacked(blocks: Iterator[Block]) -> Iterator[tuple[Any, ...]]:
    """Every array of a block as ``(steps, batch, ...)``."""
    # TensorFlow has just told glibc, for the sake of generators that hold much memory, to
    # give back whatever is free above 128 kB.
    keep_memory()
    for block in blocks:
        batch = block.rows // block.steps
        yield tuple(array.reshape((block.steps, batch, *array.shape[1:])) for array in block.arrays)


def _options() -> tf.data.Options:
    import tensorflow as tf

    options = tf.data.Options()
    # The plan has already divided the rows; TensorFlow must not do so again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # A handful of memory copies a second need no tuning threads beside the training.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    return options
