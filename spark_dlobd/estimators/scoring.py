"""Scoring inside Spark's Python workers."""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import pandas_udf

from spark_dlobd.estimators.features import invalid_rows_error, to_tensor
from spark_dlobd.estimators.outputs import Array, derive_outputs, num_classes
from spark_dlobd.python_worker import (
    exempt_from_collection,
    limit_tensorflow_threads,
    speed_up_worker,
)
from spark_dlobd.training.custom_objects import CustomObjects
from spark_dlobd.training.job import InvalidRows, OutputSpec, TensorColumn
from spark_dlobd.training.tensorflow_import import import_tensorflow

if TYPE_CHECKING:
    from pyspark import Broadcast, SparkContext
    from pyspark.sql import Column

_NETWORKS_KEPT = 4
_FRAME_ROWS = 4096
_SPREAD_UP_TO = 100
_networks: OrderedDict[str, Network] = OrderedDict()


@dataclass(frozen=True)
class ScoringPlan:
    """How rows are scored.

    Attributes
    ----------
    digest : str
        Hash of the network's payload; workers keep built networks by it.
    features : TensorColumn
        Shape of one row and the column it comes from.
    output : OutputSpec
        What the network's output means.
    fields : tuple of str
        Which of ``prediction``, ``probability`` and ``rawPrediction`` are wanted.
    batch_size : int
        Rows per call of the network.
    threads : int
        Threads of one TensorFlow operation.
    thresholds : tuple of float or None
        One per class.
    handle_invalid : {"error", "skip"}
        With ``"skip"`` the field ``valid`` says which rows count.
    """

    digest: str
    features: TensorColumn
    output: OutputSpec
    fields: tuple[str, ...]
    batch_size: int
    threads: int
    thresholds: tuple[float, ...] | None
    handle_invalid: InvalidRows


@dataclass(frozen=True)
class Network:
    """A built network and the dtype it takes."""

    call: Callable[[Array], Array]
    dtype: str


class PayloadCache:
    """Broadcast of one network: made when first asked for, shared by copies, never pickled."""

    def __init__(self) -> None:
        self._known: tuple[SparkContext, Broadcast[bytes], str] | None = None

    def get(
        self, context: SparkContext, archive: bytes, custom_objects: CustomObjects
    ) -> tuple[Broadcast[bytes], str]:
        """Runs on the driver. The broadcast and the hash of its content."""
        if self._known is None or self._known[0] is not context:
            payload, digest = network_payload(archive, custom_objects)
            self._known = (context, context.broadcast(payload), digest)
        return self._known[1:]

    def __reduce__(self) -> tuple[Any, ...]:
        return PayloadCache, ()


def network_payload(archive: bytes, custom_objects: CustomObjects) -> tuple[bytes, str]:
    """Runs on the driver. What workers need to build the network, and its hash."""
    payload = pickle.dumps((archive, custom_objects))
    return payload, hashlib.sha256(payload).hexdigest()


def width_of(plan: ScoringPlan, field: str) -> int | None:
    """Length of an output's array; None for a scalar."""
    if plan.output.problem == "regression":
        return plan.output.units if plan.output.units > 1 else None
    return None if field == "prediction" else num_classes(plan.output)


def result_type(plan: ScoringPlan) -> T.StructType:
    """Type of the struct that `scoring_udf` returns.

    Short arrays come as one double per element: Spark turns an array column of a
    Python UDF into a Python list row by row (16 microseconds a row for 10 classes).
    """
    result = T.StructType()
    # Nullable throughout: Spark demands exactly the type that Arrow batches arrive with.
    for field in plan.fields:
        width = width_of(plan, field)
        if width is None:
            result = result.add(field, T.DoubleType())
        elif width > _SPREAD_UP_TO:
            result = result.add(field, T.ArrayType(T.DoubleType()))
        else:
            for index in range(width):
                result = result.add(f"{field}_{index}", T.DoubleType())
    if plan.handle_invalid == "skip":
        result = result.add("valid", T.BooleanType())
    return result


def output_expression(plan: ScoringPlan, scored: str, field: str) -> Column:
    """Runs on the driver. One output out of the struct: a double or an array of doubles."""
    width = width_of(plan, field)
    if width is None or width > _SPREAD_UP_TO:
        return F.col(f"{scored}.{field}")
    return F.array(*(F.col(f"{scored}.{field}_{index}") for index in range(width)))


def scoring_udf(plan: ScoringPlan, payload: Broadcast[bytes]) -> Any:
    """Runs on the driver. UDF of one features column to a struct of outputs.

    It counts as nondeterministic, which keeps the optimizer from copying it into
    a filter on its own result and so from scoring every row twice.
    """

    def score(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        yield from score_batches(batches, plan, payload)

    return pandas_udf(score, result_type(plan)).asNondeterministic()  # type: ignore[call-overload]


def score_batches(
    batches: Iterator[pd.Series[Any]], plan: ScoringPlan, payload: Broadcast[bytes]
) -> Iterator[pd.DataFrame]:
    """Runs on each worker. Score Arrow batches, `_FRAME_ROWS` rows at a time."""
    speed_up_worker()
    for rows in batches:
        for start in range(0, max(len(rows), 1), _FRAME_ROWS):
            part = rows.iloc[start : start + _FRAME_ROWS]
            yield _score(part, plan, network_of(plan, payload))


def network_of(plan: ScoringPlan, payload: Broadcast[bytes]) -> Network:
    """Runs on each worker. The built network; built once per process."""
    network = _networks.get(plan.digest)
    if network is None:
        archive, custom_objects = pickle.loads(payload.value)
        network = _build(archive, custom_objects, plan)
        _networks[plan.digest] = network
        while len(_networks) > _NETWORKS_KEPT:
            _networks.popitem(last=False)
        exempt_from_collection()
    _networks.move_to_end(plan.digest)
    return network


def _score(rows: pd.Series[Any], plan: ScoringPlan, network: Network) -> pd.DataFrame:
    tensor = replace(plan.features, dtype=network.dtype)
    values, reasons = to_tensor(rows, tensor)
    valid = reasons == ""
    if plan.handle_invalid == "error" and not valid.all():
        raise invalid_rows_error(reasons, tensor, plan.features.name)
    steps = range(0, max(len(values), 1), plan.batch_size)
    raw = [network.call(values[start : start + plan.batch_size]) for start in steps]
    outputs = derive_outputs(np.concatenate(raw), plan.output, plan.thresholds)
    frame: dict[str, Any] = {}
    for field in plan.fields:
        _add_columns(frame, field, outputs[field], width_of(plan, field))
    if plan.handle_invalid == "skip":
        frame["valid"] = valid
    return pd.DataFrame(frame)


def _add_columns(frame: dict[str, Any], field: str, values: Array, width: int | None) -> None:
    if width is None:
        frame[field] = values
    elif width > _SPREAD_UP_TO:
        frame[field] = list(values)
    else:
        frame.update((f"{field}_{index}", values[:, index]) for index in range(width))


def _build(archive: bytes, custom_objects: CustomObjects, plan: ScoringPlan) -> Network:
    tf = import_tensorflow()
    from spark_dlobd.training import keras_codec

    limit_tensorflow_threads(plan.threads)
    model = keras_codec.archive_to_model(archive, custom_objects)
    dtype = keras_codec.input_dtype(model)

    # As in Keras's own predict. It also leaves no file: a Python worker of Spark ends
    # without the clean-up in which autograph removes its own.
    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[tf.TensorSpec((None, *plan.features.shape), dtype)], autograph=False
    )
    def forward(rows: Any) -> Any:
        result = model(rows, training=False)
        return tf.nest.flatten(result)[0]

    # Calling `forward` itself warns of "retracing" once a worker has scored several models.
    traced = forward.get_concrete_function()

    # The trace alone does not keep the weights alive, its function does.
    def call(rows: Array, _owner: Any = forward) -> Array:
        return np.asarray(traced(tf.convert_to_tensor(rows, dtype)))

    return Network(call, dtype)
