"""Metrics of a fitted network over all rows of a DataFrame, computed on the executors."""

from __future__ import annotations

import io
import json
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_dlobd.errors import ConfigurationError, DataError, ModelError
from spark_dlobd.job.columns import ColumnSpec, InvalidRows, TensorColumn, numpy_dtype
from spark_dlobd.job.network import Network
from spark_dlobd.processes.python_worker import (
    exempt_from_collection,
    limit_tensorflow_threads,
    speed_up_worker,
)
from spark_dlobd.processes.tensorflow_import import import_tensorflow
from spark_dlobd.training.output import reductions

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from spark_dlobd.estimators.network import FittedNetwork
    from spark_dlobd.estimators.params import PredictionParams
    from spark_dlobd.estimators.scoring import Payload, PayloadCache

_SCHEMA = "names string, states binary, counts boolean"
_NETWORKS_KEPT = 2
_networks: OrderedDict[tuple[str, str], Any] = OrderedDict()


@dataclass(frozen=True)
class EvaluationPlan:
    """How rows are evaluated.

    Attributes
    ----------
    digest : str
        Hash of the network's payload; workers keep built networks by it.
    compile_config : mapping
        What the network is compiled with.
    columns : ColumnSpec
        Features, label and perhaps weight.
    batch_size : int
        Rows of one call of the network.
    threads : int
        Threads of one TensorFlow operation.
    """

    digest: str
    compile_config: Mapping[str, Any]
    columns: ColumnSpec
    batch_size: int
    threads: int


def evaluate(
    stage: PredictionParams, fitted: FittedNetwork, cache: PayloadCache, dataset: DataFrame
) -> dict[str, float]:
    """Runs on the driver. See `DLModel.evaluate`."""
    from spark_dlobd.data.materialize import map_valid_rows
    from spark_dlobd.estimators.columns import check_dataset, column_spec
    from spark_dlobd.processes.worker_interpreter import prepare_workers
    from spark_dlobd.spark import slots
    from spark_dlobd.training import keras_codec
    from spark_dlobd.training.metric_states import check_mergeable

    check_dataset(dataset)
    stage.check_params()
    config = fitted.network.compile_config
    _check_compiled(config)
    network = _compiled(fitted.network)
    columns = column_spec(stage, dataset.schema, network, config, fitted.specs)
    check_mergeable(keras_codec.built_metrics(network, columns))
    prepare_workers(dataset.sparkSession)
    sent, digest = cache.get(dataset.sparkSession, fitted.network)
    plan = EvaluationPlan(
        digest,
        config,
        columns,
        stage.getPredictBatchSize(),
        slots(dataset.sparkSession).cores_per_task,
    )
    function = partial(evaluate_batches, plan=plan, payload=sent)
    invalid: InvalidRows = "skip" if stage.getHandleInvalid() == "skip" else "error"
    found = map_valid_rows(dataset, columns, invalid, function, _SCHEMA)
    for row in found:
        _check_names(json.loads(row["names"]), network)
    if columns.weights and not any(row["counts"] for row in found):
        named = ", ".join(f"'{weight.name}'" for weight in columns.weights)
        raise DataError(
            f"All rows have weight 0, by weight column {named}: the loss would be "
            "0 whatever the network says. Give some rows a weight above 0, or leave weightCol out."
        )
    return merged_metrics(network, [_unpacked(bytes(row["states"])) for row in found])


def merged_metrics(network: Any, states: Sequence[Sequence[NDArray[Any]]]) -> dict[str, float]:
    """Runs on the driver. Metrics over all rows from the states of parts of them.

    Parameters
    ----------
    network : keras.Model
        Compiled, with the variables of its metrics built; they are assigned.
    states : sequence of sequence of ndarray
        Variables of the metrics after each part, as `MetricStates` reads them.

    Raises
    ------
    DataError
        If a metric is not finite.
    """
    from spark_dlobd.training.metric_states import MetricStates

    metrics = MetricStates(network.metrics)
    metrics.assign(metrics.merged(states))
    found = {name: float(value) for name, value in network.get_metrics_result().items()}
    if not np.isfinite(found.get("loss", 0.0)):
        raise DataError(
            f"The loss over these rows is {found['loss']}. Scale the features, or look for rows or "
            "weights of the network that make it so."
        )
    return found


def evaluate_batches(
    batches: Iterable[pa.RecordBatch], plan: EvaluationPlan, payload: Payload
) -> Iterator[pa.RecordBatch]:
    """Runs on each worker. States of the metrics after all rows of one task; none without rows."""
    import pyarrow as pa

    from spark_dlobd.estimators.scoring import own_error
    from spark_dlobd.training.metric_states import MetricStates

    speed_up_worker()
    counts: list[bool] = []
    steps = _steps(batches, plan, counts)
    first = next(steps, None)
    if first is None:
        return
    try:
        network = _network_of(plan, payload)
        with warnings.catch_warnings():
            # Keras does not know how many there are until there are no more
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            logs = network.evaluate(_all_of(first, steps), verbose=0, return_dict=True)
    except Exception as error:
        raise own_error(error, plan.batch_size, "Evaluation") from error
    states = MetricStates(network.metrics).read()
    yield pa.RecordBatch.from_arrays(
        [
            pa.array([json.dumps(list(logs))]),
            pa.array([_packed(states)], pa.binary()),
            pa.array([any(counts)]),
        ],
        names=["names", "states", "counts"],
    )


def _steps(
    batches: Iterable[pa.RecordBatch], plan: EvaluationPlan, counts: list[bool]
) -> Iterator[tuple[Any, ...]]:
    """Features, labels and perhaps weights of one call each; notes whether a row has a weight."""
    from spark_dlobd.data.decode import decoded, rows_of

    columns = plan.columns
    weights = len(columns.all) - len(columns.weights)
    for batch in batches:
        arrays = [
            _as_network_takes(decoded(rows_of(batch.column(index), column), column), column)
            for index, column in enumerate(columns.all)
        ]
        for start in range(0, batch.num_rows, plan.batch_size):
            step = [array[start : start + plan.batch_size] for array in arrays]
            counts.append(not columns.weights or any(np.any(one) for one in step[weights:]))
            yield columns.packed(step)


def _as_network_takes(rows: NDArray[Any], column: TensorColumn) -> Any:
    """Rows in the type of the network; strings as TensorFlow's, since Keras knows no objects."""
    if column.dtype != "string":
        return rows.astype(numpy_dtype(column.network_dtype), copy=False)
    import tensorflow as tf

    return tf.constant(rows, tf.string, rows.shape)


def _all_of(first: tuple[Any, ...], rest: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    yield first
    yield from rest


def _network_of(plan: EvaluationPlan, payload: Payload) -> Any:
    """Runs on each worker. The compiled network; built once per process."""
    import pickle

    key = plan.digest, json.dumps(plan.compile_config, sort_keys=True)
    network = _networks.get(key)
    if network is None:
        import_tensorflow()
        limit_tensorflow_threads(plan.threads)
        archive, custom_objects = pickle.loads(payload.value)
        network = _compiled(Network(archive, plan.compile_config, custom_objects))
        _networks[key] = network
        while len(_networks) > _NETWORKS_KEPT:
            _networks.popitem(last=False)
        exempt_from_collection()
    _networks.move_to_end(key)
    return network


def _compiled(network: Network) -> Any:
    """Keras model with its metrics, on the driver and on each worker."""
    from spark_dlobd.training import keras_codec

    # A call of several steps would lose the last ones of a task, and the optimizer is not
    # needed: Adam's variables would be twice the network.
    changed = {**network.compile_config, "steps_per_execution": 1}
    if "optimizer" in changed:
        changed["optimizer"] = "sgd"
    return keras_codec.network_to_model(replace(network, compile_config=changed))


def _check_compiled(config: Mapping[str, Any]) -> None:
    if not config:
        raise ConfigurationError(
            "evaluate needs a network that is compiled with a loss. Compile the Keras model before "
            "setModel(keras_model); DLEstimator.fit(df) returns one that is."
        )
    for reduction in reductions(config):
        if reduction in ("sum_over_batch_size", "mean"):
            continue
        raise ConfigurationError(
            f"evaluate gives the mean of the loss over rows. Got a loss with reduction="
            f"{reduction!r}, which depends on how rows fall into batches: compile the network with "
            "reduction='sum_over_batch_size' (Keras's default) and pass it to setModel."
        )


def _check_names(names: list[str], network: Any) -> None:
    known = list(network.get_metrics_result())
    if set(names) - set(known):
        raise ModelError(
            f"test_step of {type(network).__name__} returns {', '.join(map(repr, names))}, its "
            f"metrics are {', '.join(map(repr, known))}. Only metrics can be merged over tasks: "
            "return self.get_metrics_result() and list them in the property metrics."
        )


def _packed(states: Sequence[NDArray[Any]]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **{str(index): state for index, state in enumerate(states)})
    return content.getvalue()


def _unpacked(content: bytes) -> list[NDArray[Any]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as states:
        return [states[str(index)] for index in range(len(states.files))]
