"""Scoring inside Spark's Python workers."""

from __future__ import annotations

import hashlib
import pickle
import socket
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import pandas_udf

from spark_dlobd.errors import ConfigurationError, DLError, ModelError
from spark_dlobd.estimators.artifact import add_artifact
from spark_dlobd.estimators.features import encode_rows, invalid_error
from spark_dlobd.estimators.outputs import (
    NOT_PREDICTED,
    Array,
    derive_outputs,
    field_width,
    finite_rows,
    not_finite_error,
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


Forward = Callable[[Sequence[Array]], list[Array]]
"""A built network: rows of each input to those of each output."""

_NETWORKS_KEPT = 4
_FRAME_ROWS = 4096
_FRAME_BYTES = 64 << 20
_SPREAD_UP_TO = 100
# An error as data: Spark would show what a worker raises below its own lines and a traceback.
_FAILURE = "failure"
_networks: OrderedDict[str, Forward] = OrderedDict()


class Field(NamedTuple):
    """One of ``prediction``, ``probability`` and ``rawPrediction`` of one output."""

    output: int
    name: str

    @property
    def slot(self) -> str:
        """Name within the struct that workers return."""
        return f"{self.name}_of_{self.output}"


@dataclass(frozen=True)
class ScoringPlan:
    """How rows are scored.

    Attributes
    ----------
    digest : str
        Hash of the network's payload; workers keep built networks by it.
    inputs : tuple of TensorColumn
        Shape of one row of each input and the column it comes from.
    outputs : tuple of OutputSpec
        What the network's outputs mean.
    fields : tuple of Field
        What is wanted.
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
    inputs: tuple[TensorColumn, ...]
    outputs: tuple[OutputSpec, ...]
    fields: tuple[Field, ...]
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


def width_of(plan: ScoringPlan, field: Field) -> int | None:
    """Length of a field's array as workers return it; None for a scalar."""
    return field_width(plan.outputs[field.output], field.name)


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
            result = result.add(field.slot, T.DoubleType())
        elif width > _SPREAD_UP_TO:
            result = result.add(field.slot, T.ArrayType(T.DoubleType()))
        else:
            for index in range(width):
                result = result.add(f"{field.slot}_{index}", T.DoubleType())
    if plan.handle_invalid == "skip":
        result = result.add("valid", T.BooleanType())
    return result


def output_expression(plan: ScoringPlan, scored: str, field: Field) -> Column:
    """Runs on the driver. One output out of the struct: a double or an array of doubles."""
    width = width_of(plan, field)
    value = F.col(f"{scored}.{field.slot}")
    if width is not None and width <= _SPREAD_UP_TO:
        value = F.array(*(F.col(f"{scored}.{field.slot}_{index}") for index in range(width)))
    if field.name == "prediction" and plan.outputs[field.output].problem == "multilabel":
        value = F.filter(value, lambda label: label != NOT_PREDICTED)
    return _unless_failed(scored, value)


def valid_expression(scored: str) -> Column:
    """Runs on the driver. Whether a row was scored, where ``handle_invalid`` is ``"skip"``."""
    return _unless_failed(scored, F.col(f"{scored}.valid"))


def _unless_failed(scored: str, value: Column) -> Column:
    """The value, or the error that the worker told."""
    failure = F.col(f"{scored}.{_FAILURE}")
    return F.when(failure.isNull(), value).otherwise(F.raise_error(failure))


def scoring_udf(plan: ScoringPlan, payload: Payload) -> Any:
    """Runs on the driver. UDF of a column for each input to a struct of outputs.

    It counts as nondeterministic, which keeps the optimizer from copying it into
    a filter on its own result and so from scoring every row twice.
    """
    version = installed_version()

    def score(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        yield from score_batches(((rows,) for rows in batches), plan, payload, version)

    def score_several(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.DataFrame]:
        yield from score_batches(batches, plan, payload, version)

    function = score if len(plan.inputs) == 1 else score_several
    return pandas_udf(function, result_type(plan)).asNondeterministic()  # type: ignore[call-overload]


def score_batches(
    batches: Iterator[tuple[pd.Series[Any], ...]],
    plan: ScoringPlan,
    payload: Payload,
    version: str | None = None,
) -> Iterator[pd.DataFrame]:
    """Runs on each worker. Score Arrow batches, `rows_of_a_frame` rows at a time.

    What fails goes with the rows of its part; whatever reads their outputs raises it.
    """
    speed_up_worker()
    for columns in batches:
        count = len(columns[0])
        frame_rows = rows_of_a_frame(plan)
        for start in range(0, max(count, 1), frame_rows):
            part = [rows.iloc[start : start + frame_rows] for rows in columns]
            try:
                require_version(version)
                frame = _score(part, plan, network_of(plan, payload))
            except Exception as error:
                frame = _failed(len(part[0]), plan, failure_text(error, plan))
            yield frame


def rows_of_a_frame(plan: ScoringPlan) -> int:
    """Rows scored at a time: as many of large outputs as have their place in memory."""
    row_bytes = 8 * sum(width_of(plan, field) or 1 for field in plan.fields)
    return max(1, min(_FRAME_ROWS, _FRAME_BYTES // max(row_bytes, 1)))


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


def _score(rows: Sequence[pd.Series[Any]], plan: ScoringPlan, forward: Forward) -> pd.DataFrame:
    encoded = [encode_rows(one, column) for one, column in zip(rows, plan.inputs, strict=True)]
    valid = np.logical_and.reduce([one.reasons == 0 for one in encoded])
    if plan.handle_invalid == "error" and not valid.all():
        raise invalid_error(plan.inputs, encoded)
    values = [one.tensors(column) for one, column in zip(encoded, plan.inputs, strict=True)]
    results = _forwarded(values, forward, plan.batch_size)
    for result in results:
        finite = finite_rows(result)
        if not finite.all():
            if plan.handle_invalid == "error":
                names = [column.name for column in plan.inputs]
                raise not_finite_error(finite, names)
            valid &= finite
            result[~finite] = 0
    derived = [
        derive_outputs(result, output, plan.thresholds)
        for result, output in zip(results, plan.outputs, strict=True)
    ]
    frame: dict[str, Any] = {_FAILURE: [None] * len(valid)}
    for field in plan.fields:
        _add_columns(frame, field.slot, derived[field.output][field.name], width_of(plan, field))
    if plan.handle_invalid == "skip":
        frame["valid"] = valid
    return pd.DataFrame(frame)


def _forwarded(values: Sequence[Array], forward: Forward, batch_size: int) -> list[Array]:
    """Each output of the network for all rows."""
    steps = range(0, max(len(values[0]), 1), batch_size)
    raw = [forward([one[start : start + batch_size] for one in values]) for start in steps]
    return [np.concatenate(parts) for parts in zip(*raw, strict=True)]


def _add_columns(frame: dict[str, Any], slot: str, values: Array, width: int | None) -> None:
    if width is None:
        frame[slot] = values
    elif width > _SPREAD_UP_TO:
        frame[slot] = list(values)
    else:
        frame.update((f"{slot}_{index}", values[:, index]) for index in range(width))


def _build(archive: bytes, custom_objects: CustomObjects, plan: ScoringPlan) -> Forward:
    tf = import_tensorflow()
    from spark_dlobd.training import keras_codec
    from spark_dlobd.training.signature import inputs_of, outputs_of, tensors_by_part

    limit_tensorflow_threads(plan.threads)
    model = keras_codec.archive_to_model(archive, custom_objects)
    takes, gives = inputs_of(model), outputs_of(model)
    specs = [tf.TensorSpec((None, *one.shape), one.dtype) for one in takes.tensors]

    # As in Keras's own predict. It also leaves no file: a Python worker of Spark ends
    # without the clean-up in which autograph removes its own.
    @tf.function(input_signature=specs, autograph=False)  # type: ignore[untyped-decorator]
    def forward(*rows: Any) -> Any:
        x = takes.structure.packed(dict(zip(takes.parts, rows, strict=True)))
        result = tensors_by_part(model(x, training=False), gives.structure)
        return [result[part] for part in gives.parts]

    # Calling `forward` itself warns of "retracing" once a worker has scored several models.
    traced = forward.get_concrete_function()

    # The trace alone does not keep the weights alive, its function does.
    def call(rows: Sequence[Array], _owner: Any = forward) -> list[Array]:
        given = (tf.cast(one, spec.dtype) for one, spec in zip(rows, specs, strict=True))
        return [np.asarray(one) for one in traced(*given)]

    return call
