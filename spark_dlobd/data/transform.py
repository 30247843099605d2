"""The user's transformation of batches: applied on workers, tried on the driver."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_dlobd.data.block import Block
from spark_dlobd.errors import ConfigurationError, ConfigurationTypeError, TrainingError
from spark_dlobd.job.columns import ColumnSpec, TensorColumn, numpy_dtype
from spark_dlobd.job.transformation import Transformation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spark_dlobd.job.dataset import Split
    from spark_dlobd.job.train_job import TrainJob

_STREAM = 0x7A
# what Keras layers draw from; ranks that share a process may share a layer
_SEED_VARIABLE = "seed_generator_state"
_seeding = threading.Lock()
# operations whose numbers come from a state of TensorFlow's own
_DRAWS = ("Random", "Multinomial", "TruncatedNormal", "ParameterizedTruncatedNormal")
_ROWS_TRIED = 2
_FORMS = "f(x) or f(x, y), either also with the names seed and training"


class Transformer:
    """Applies a transformation to blocks, step by step. Runs on each worker.

    Parameters
    ----------
    transformation : Transformation
        From `examined`.
    columns : ColumnSpec
        What the blocks hold.
    """

    def __init__(self, transformation: Transformation, columns: ColumnSpec) -> None:
        self._transformation = transformation
        self._columns = columns
        self._call: Callable[[list[Any], Any], list[Any]] | None = None

    def blocks(self, blocks: Iterator[Block], seeds: NDArray[np.int32]) -> Iterator[Block]:
        """Blocks with inputs in the network's types, each step transformed with its seed.

        Raises
        ------
        TrainingError
            If a batch comes back with another number of rows.
        """
        first = 0
        for block in blocks:
            size = block.rows // block.steps
            steps = [
                self._step([a[i * size : (i + 1) * size] for a in block.arrays], seeds[first + i])
                for i in range(block.steps)
            ]
            first += block.steps
            yield Block(
                tuple(np.concatenate(arrays) for arrays in zip(*steps, strict=True))
                if len(steps) > 1
                else tuple(steps[0]),
                block.steps,
            )

    def _step(self, stored: Sequence[NDArray[Any]], seed: NDArray[np.int32]) -> list[NDArray[Any]]:
        if self._call is None:
            self._call = _caller(self._transformation, self._columns)
        found = self._call(_as_taken(stored, self._columns), seed)
        for array, column in zip(found, self._columns.all, strict=True):
            if len(array) != len(stored[0]):
                raise TrainingError(
                    f"{_told(self._transformation)} gave {len(array)} rows of {column.name!r} for "
                    f"a batch of {len(stored[0])}. Expected as many as it takes."
                )
        return found


def transformer_of(job: TrainJob, split: Split) -> Transformer | None:
    """What changes the rows of a split: those that validate stay."""
    transformation = job.config.transformation
    if transformation is None or split != "train":
        return None
    return Transformer(transformation, job.columns)


def step_seeds(seed: int, epoch: int, rank: int, steps: int) -> NDArray[np.int32]:
    """Two numbers for each step of one rank's epoch, of shape ``(steps, 2)``. Pure.

    Examples
    --------
    >>> step_seeds(seed=0, epoch=1, rank=0, steps=3).shape
    (3, 2)
    """
    generator = np.random.default_rng([seed, epoch, rank, _STREAM])
    return generator.integers(0, 2**31 - 1, (steps, 2), dtype=np.int32)


def examined(function: Callable[..., Any], columns: ColumnSpec) -> Transformation:
    """Find out how a function is called, by its parameters and by trying it. On the driver.

    TensorFlow traces it; where it cannot, it is called with numpy arrays of zeros.

    Raises
    ------
    ConfigurationError
        If it can be called neither way, or gives something else than it takes.
    """
    parameters = _by_parameters(function)
    traced = Transformation(function, **parameters)
    try:
        return replace(traced, draws=_Traced(traced, columns).draws)
    except ConfigurationError:
        raise
    except Exception as error:
        untraceable = error
    plain = Transformation(function, **parameters, traced=False)
    try:
        _caller(plain, columns)([_zeros(column) for column in columns.all], np.zeros(2, np.int32))
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"{_told(plain)} must take a batch, as tensors of TensorFlow or as numpy arrays. "
            f"Traced by TensorFlow it raised {_first_line(untraceable)}\nCalled with numpy arrays "
            f"of {_ROWS_TRIED} rows of zeros it raised {_first_line(error)}"
        ) from error
    return plain


def _caller(
    transformation: Transformation, columns: ColumnSpec
) -> Callable[[list[Any], Any], list[Any]]:
    """Function of the arrays of a batch and its seed."""
    if transformation.traced:
        return _Traced(transformation, columns)
    return lambda arrays, seed: _transformed(transformation, columns, arrays, seed, _fitting_array)


class _Traced:
    """A transformation as a graph, the same for every number of rows."""

    def __init__(self, transformation: Transformation, columns: ColumnSpec) -> None:
        import tensorflow as tf

        def graph(arrays: list[Any], seed: Any) -> list[Any]:
            return _transformed(transformation, columns, arrays, seed, _fitting_tensor)

        specs = [
            tf.TensorSpec((None, *column.shape), tf.as_dtype(column.network_dtype))
            for column in columns.all
        ]
        # its work is to run ahead of the step, not beside it on a GPU
        with tf.device("CPU:0"):
            traced = tf.function(graph, autograph=False)
            self._graph = traced.get_concrete_function(specs, tf.TensorSpec((2,), tf.int32))
        self._owner = traced  # it keeps what the graph needs alive
        self._seeded = [v for v in self._graph.graph.variables if _SEED_VARIABLE in v.name]

    def __call__(self, arrays: list[Any], seed: NDArray[np.int32]) -> list[NDArray[Any]]:
        import tensorflow as tf

        with tf.device("CPU:0"):
            tensors = [tf.convert_to_tensor(array) for array in arrays]
            if not self._seeded:
                found = self._graph(tensors, tf.constant(seed))
            else:
                with _seeding:
                    for variable, own in zip(self._seeded, self._seeds(seed), strict=True):
                        variable.assign(tf.cast(own, variable.dtype))
                    found = self._graph(tensors, tf.constant(seed))
        return [tensor.numpy() for tensor in found]

    def _seeds(self, seed: NDArray[np.int32]) -> NDArray[np.int32]:
        """One for each layer that draws: two that are close would draw the same numbers."""
        return step_seeds(int(seed[0]), int(seed[1]), 0, len(self._seeded))

    @property
    def draws(self) -> bool:
        definition = self._graph.graph.as_graph_def()
        functions = [definition.node, *(one.node_def for one in definition.library.function)]
        return any(node.op.startswith(_DRAWS) for nodes in functions for node in nodes)


def _transformed(
    transformation: Transformation,
    columns: ColumnSpec,
    arrays: Sequence[Any],
    seed: Any,
    fitting: Callable[[Any, TensorColumn, Transformation], Any],
) -> list[Any]:
    """What comes back for the arrays of a batch, in their order; weights stay."""
    x, y, *_ = columns.packed(arrays)
    try:
        new_x, new_y = transformation.call(x, y, seed)
        parts = columns.x.unpacked(new_x), columns.y.unpacked(new_y)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{_told(transformation)} must give back what it takes. {error}"
        ) from error
    inputs = [fitting(parts[0][one.part], one, transformation) for one in columns.inputs]
    labels = [fitting(parts[1][one.part], one, transformation) for one in columns.labels]
    return [*inputs, *labels, *arrays[len(inputs) + len(labels) :]]


def _fitting_array(given: Any, column: TensorColumn, transformation: Transformation) -> Any:
    """An array of numpy in the type of its column."""
    _check_given(given, column, transformation)
    array = np.asarray(given)
    wanted = numpy_dtype(column.network_dtype)
    if array.dtype.kind in "US":
        array = np.char.encode(array) if array.dtype.kind == "U" else array
        array = array.astype(object)
    same_kind = array.dtype == wanted or _kind(array.dtype) == _kind(wanted)
    _check(same_kind, array.dtype.name, array.shape, column, transformation)
    return array.astype(wanted, copy=False)


def _fitting_tensor(given: Any, column: TensorColumn, transformation: Transformation) -> Any:
    """A symbolic tensor in the type of its column."""
    import tensorflow as tf

    _check_given(given, column, transformation)
    tensor = tf.convert_to_tensor(given)
    wanted = tf.as_dtype(column.network_dtype)
    got = tensor.dtype
    same_kind = got == wanted or any(
        getattr(got, kind) and getattr(wanted, kind) for kind in ("is_floating", "is_integer")
    )
    shape = tensor.shape.as_list() if tensor.shape.rank is not None else [None, *column.shape]
    _check(same_kind, got.name, shape, column, transformation)
    return tf.ensure_shape(tf.cast(tensor, wanted), (None, *column.shape))


def _kind(dtype: np.dtype[Any]) -> str:
    import ml_dtypes

    is_float = dtype.kind == "f" or dtype == ml_dtypes.bfloat16
    return "f" if is_float else dtype.kind.replace("u", "i")


def _check_given(given: Any, column: TensorColumn, transformation: Transformation) -> None:
    if given is None:
        raise ConfigurationError(
            f"{_told(transformation)} must give back what it takes. Got None for {column.name!r}: "
            "does it end with a return?"
        )


def _check(
    same_kind: bool,
    dtype: str,
    shape: Sequence[int | None],
    column: TensorColumn,
    transformation: Transformation,
) -> None:
    extents = zip(shape[1:], column.shape, strict=False)
    same = len(shape) == 1 + len(column.shape) and all(got in (None, own) for got, own in extents)
    if not same_kind or not same:
        raise ConfigurationError(
            f"{_told(transformation)} must give back what it takes. Expected "
            f"{column.network_dtype} of shape {_batch(column.shape)} for {column.name!r}. Got "
            f"{dtype} of shape {_batch(shape[1:]) if shape else '()'}."
        )


def _batch(shape: Sequence[int | None]) -> str:
    return f"({', '.join(['rows', *('?' if one is None else str(one) for one in shape)])})"


def _as_taken(stored: Sequence[NDArray[Any]], columns: ColumnSpec) -> list[NDArray[Any]]:
    """Arrays in the types that the network takes."""
    pairs = zip(stored, columns.all, strict=True)
    return [array.astype(numpy_dtype(one.network_dtype), copy=False) for array, one in pairs]


def _zeros(column: TensorColumn) -> NDArray[Any]:
    shape = (_ROWS_TRIED, *column.shape)
    dtype = numpy_dtype(column.network_dtype)
    return np.full(shape, b"", object) if dtype.kind == "O" else np.zeros(shape, dtype)


def _by_parameters(function: Callable[..., Any]) -> dict[str, bool]:
    """What a function takes, by the names and number of its parameters."""
    if not callable(function) or isinstance(function, type):
        raise ConfigurationTypeError(
            f"transformation must be a function of a batch, {_FORMS}, or Keras layers. Got "
            f"{function!r} of type {type(function).__name__}."
        )
    try:
        # what Keras layers take stands in their `call`
        found = inspect.signature(getattr(function, "call", function)).parameters
    except (TypeError, ValueError):  # functions of C have none
        return {}
    named = {name: name in found for name in ("seed", "training")}
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        one
        for name, one in found.items()
        if one.default is inspect.Parameter.empty
        and name not in named
        and one.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    ]
    if not 1 <= len(needed) <= 2 or any(one.kind not in kinds for one in needed):
        raise ConfigurationError(
            f"transformation must be a function of a batch, {_FORMS}. Got one with the parameters "
            f"({', '.join(map(str, found.values()))})."
        )
    return {"labels": len(needed) == 2, **named}


def _told(transformation: Transformation) -> str:
    return f"transformation {transformation.name!r}"


def _first_line(error: Exception) -> str:
    """What went wrong, without what frameworks add to it."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"
