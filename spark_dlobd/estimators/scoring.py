"""Scoring inside Spark's Python workers."""

from __future__ import annotations

import hashlib
import pickle
import socket
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import pandas_udf

from spark_dlobd.errors import ConfigurationError, DLError, ModelError
from spark_dlobd.estimators.artifact import add_artifact
from spark_dlobd.estimators.features import encode_rows, invalid_error
from spark_dlobd.estimators.outputs import (
    Array,
    derive_outputs,
    finite_rows,
    not_finite_error,
    num_classes,
)
from spark_dlobd.job.columns import InvalidRows, TensorColumn
from spark_dlobd.job.network import Network, OutputSpec
from spark_dlobd.processes.python_worker import (
    exempt_from_collection,
    limit_tensorflow_threads,
    speed_up_worker,
)
from spark_dlobd.processes.tensorflow_import import import_tensorflow
from spark_dlobd.processes.worker_interpreter import (
    installed_version,
    require_version,
    worker_problem,
)
from spark_dlobd.spark import is_connect
from spark_dlobd.training.custom_objects import CustomObjects
from spark_dlobd.wording import useful_part

if TYPE_CHECKING:
    from pyspark.sql import Column, SparkSession


class Payload(Protocol):
    """What workers read a network from: a broadcast or an artifact."""

    @property
    def value(self) -> bytes:
        """The bytes. Runs on each worker."""


Forward = Callable[[Array], Array]
"""A built network: rows to outputs."""

_NETWORKS_KEPT = 4
_FRAME_ROWS = 4096
_SPREAD_UP_TO = 100
# An error as data: Spark would show what a worker raises below its own lines and a traceback.
_FAILURE = "failure"
_networks: OrderedDict[str, Forward] = OrderedDict()


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


class PayloadCache:
    """One network on its way to the workers: sent when first asked for, never pickled.

    By a broadcast; where a session has none, with Spark Connect, as an artifact of it. Copies
    share it.
    """

    def __init__(self) -> None:
        self._known: tuple[Any, Payload, str] | None = None

    def get(self, spark: SparkSession, network: Network) -> tuple[Payload, str]:
        """Runs on the driver. What workers read the network from, and the hash of its content."""
        owner: Any = spark if is_connect(spark) else spark.sparkContext
        if self._known is None or self._known[0] is not owner:
            payload, digest = network_payload(network)
            sent: Payload = (
                add_artifact(spark, payload) if owner is spark else owner.broadcast(payload)
            )
            self._known = (owner, sent, digest)
        return self._known[1:]

    def __reduce__(self) -> tuple[Any, ...]:
        return PayloadCache, ()


def network_payload(network: Network) -> tuple[bytes, str]:
    """Runs on the driver. What workers need to build the network, and its hash."""
    payload = pickle.dumps((network.archive, CustomObjects(network.custom_objects)))
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
    result = T.StructType().add(_FAILURE, T.StringType())
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
    value = F.col(f"{scored}.{field}")
    if width is not None and width <= _SPREAD_UP_TO:
        value = F.array(*(F.col(f"{scored}.{field}_{index}") for index in range(width)))
    return _unless_failed(scored, value)


def valid_expression(scored: str) -> Column:
    """Runs on the driver. Whether a row was scored, where ``handle_invalid`` is ``"skip"``."""
    return _unless_failed(scored, F.col(f"{scored}.valid"))


def _unless_failed(scored: str, value: Column) -> Column:
    """The value, or the error that the worker told."""
    failure = F.col(f"{scored}.{_FAILURE}")
    return F.when(failure.isNull(), value).otherwise(F.raise_error(failure))


def scoring_udf(plan: ScoringPlan, payload: Payload) -> Any:
    """Runs on the driver. UDF of one features column to a struct of outputs.

    It counts as nondeterministic, which keeps the optimizer from copying it into
    a filter on its own result and so from scoring every row twice.
    """
    version = installed_version()

    def score(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        yield from score_batches(batches, plan, payload, version)

    return pandas_udf(score, result_type(plan)).asNondeterministic()  # type: ignore[call-overload]


def score_batches(
    batches: Iterator[pd.Series[Any]],
    plan: ScoringPlan,
    payload: Payload,
    version: str | None = None,
) -> Iterator[pd.DataFrame]:
    """Runs on each worker. Score Arrow batches, `_FRAME_ROWS` rows at a time.

    What fails goes with the rows of its part; whatever reads their outputs raises it.
    """
    speed_up_worker()
    for rows in batches:
        for start in range(0, max(len(rows), 1), _FRAME_ROWS):
            part = rows.iloc[start : start + _FRAME_ROWS]
            try:
                require_version(version)
                frame = _score(part, plan, network_of(plan, payload))
            except Exception as error:
                frame = _failed(len(part), plan, failure_text(error, plan))
            yield frame


def own_error(error: Exception, batch_size: int, what: str = "Scoring") -> DLError:
    """Runs on each worker. The error itself where it is ours, else one of ours that says it."""
    if isinstance(error, DLError):
        return error
    own = useful_part("".join(traceback.format_exception_only(error)))
    host = socket.gethostname()
    if problem := worker_problem(own):
        return ConfigurationError(f"{problem} Found on {host}.")
    advice = ""
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        advice = f" Out of memory: lower predictBatchSize, which is {batch_size}."
    # no empty line in it: the driver takes what stands before Spark's
    return ModelError(f"{what} failed on {host}.{advice} {own}")


def failure_text(error: Exception, plan: ScoringPlan) -> str:
    """Runs on each worker. What the driver says of an error: the useful line first.

    Our own errors say all that there is to say; any other comes with its traceback.
    """
    told = own_error(error, plan.batch_size)
    text = f"{type(told).__name__}: {told}"
    if not isinstance(told, ModelError) or told is error:
        return text
    trace = "".join(traceback.format_exception(error))
    return f"{text}\n\nOn the worker:\n{trace}"


def _failed(rows: int, plan: ScoringPlan, text: str) -> pd.DataFrame:
    """Rows that say why they have no outputs."""
    return pd.DataFrame(
        {name: [text if name == _FAILURE else None] * rows for name in result_type(plan).names}
    )


def network_of(plan: ScoringPlan, payload: Payload) -> Forward:
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


def _score(rows: pd.Series[Any], plan: ScoringPlan, forward: Forward) -> pd.DataFrame:
    column = plan.features
    encoded = encode_rows(rows, column)
    valid = encoded.reasons == 0
    if plan.handle_invalid == "error" and not valid.all():
        raise invalid_error(encoded, column)
    values = encoded.tensors(column)
    steps = range(0, max(len(values), 1), plan.batch_size)
    raw = [forward(values[start : start + plan.batch_size]) for start in steps]
    result = np.concatenate(raw)
    finite = finite_rows(result)
    if not finite.all():
        if plan.handle_invalid == "error":
            raise not_finite_error(finite, column.name)
        valid &= finite
        result[~finite] = 0
    outputs = derive_outputs(result, plan.output, plan.thresholds)
    frame: dict[str, Any] = {_FAILURE: [None] * len(values)}
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


def _build(archive: bytes, custom_objects: CustomObjects, plan: ScoringPlan) -> Forward:
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
        return np.asarray(traced(tf.cast(rows, dtype)))

    return call
