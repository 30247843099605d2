"""Params and a DataFrame's schema become one frozen job. Runs on the driver.

Everything that can be wrong is found here, before the first Spark job.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spark_dlobd.backends.registry import Choice, choose_backend
from spark_dlobd.data import columns as data_columns
from spark_dlobd.data.request import Request
from spark_dlobd.data.row_groups import usable_reader
from spark_dlobd.data.split import ValidationSplit
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.estimators.model import DLModel
from spark_dlobd.estimators.outputs import check_thresholds
from spark_dlobd.job.columns import ColumnSpec, TensorColumn
from spark_dlobd.job.dataset import ReaderName
from spark_dlobd.job.target import Target
from spark_dlobd.job.train_job import FitConfig, ModelSpec, OutputSpec, TrainJob, TrainResult
from spark_dlobd.processes.worker_interpreter import prepare_workers
from spark_dlobd.training import keras_codec
from spark_dlobd.training.monitors import (
    Watched,
    check_watched,
    monitored,
    of_target,
    waiting_for_validation,
)
from spark_dlobd.training.optimizer_state import load_optimizer_state, without_learning_rate
from spark_dlobd.training.output import loss_name

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

    from spark_dlobd.backends.base import Backend
    from spark_dlobd.estimators.estimator import DLEstimator


@dataclass(frozen=True)
class Prepared:
    """A checked fit.

    Attributes
    ----------
    job : TrainJob
        What to train.
    request : Request
        On which rows.
    reader : {"petastorm", "pyarrow"}
        Through what workers read them.
    choice : Choice
        With what, and why.
    label_metadata : dict
        Metadata of the label column.
    target : Target or None
        What ends the training early.
    waiting : tuple of Watched
        Who waits for metrics of validation rows.
    """

    job: TrainJob
    request: Request
    reader: ReaderName
    choice: Choice
    label_metadata: dict[str, Any]
    target: Target | None = None
    waiting: tuple[Watched, ...] = ()


@dataclass(frozen=True)
class _Network:
    """A checked network with the columns it is for; `model` is compiled."""

    model: Any
    spec: ModelSpec
    columns: ColumnSpec


def _network(estimator: DLEstimator, schema: StructType) -> _Network:
    """Check Params, network and schema against each other."""
    estimator.check_params()
    model = estimator.build_keras_model()
    compile_config = keras_codec.compile_config(
        model,
        loss=estimator.getLoss(),
        optimizer=estimator.getOptimizer(),
        metrics=estimator.getMetrics(),
        learning_rate=estimator.getLearningRate(),
    )
    problem: Any = estimator.getProblemType()
    output = keras_codec.output_spec(model, compile_config, problem)
    _check_reduction(compile_config, estimator.getNumTrainWorkers())
    check_thresholds(estimator._value("thresholds"), output)
    columns = column_spec(estimator, schema, model, compile_config, output)
    custom_objects = keras_codec.custom_objects_of(model, compile_config)
    _try_compile(model, compile_config, custom_objects)
    state = _optimizer_state(estimator)
    if state:
        load_optimizer_state(model, state)  # what does not fit is found here
    spec = ModelSpec(
        archive=estimator.model_archive,
        compile_config=compile_config,
        output=output,
        custom_objects=custom_objects,
        optimizer_state=state,
    )
    return _Network(model, spec, columns)


def untrained_model(estimator: DLEstimator, schema: StructType) -> DLModel:
    """Return what a fit on a DataFrame of `schema` would, but for the training.

    Raises
    ------
    ConfigurationError, ModelError
        Whatever is wrong, with what was expected.
    """
    network = _network(estimator, schema)
    _validation(estimator, schema)
    _class_weight(estimator, network.spec.output)
    untrained = TrainResult(network.spec.archive, {}, {})
    metadata = _label_metadata(estimator, schema)
    return DLModel.from_training(network.spec, untrained, network.columns, metadata, estimator)


def prepare(estimator: DLEstimator, dataset: DataFrame) -> Prepared:
    """Check every setting against the model, the schema and the cluster.

    Raises
    ------
    ConfigurationError, ModelError
        Whatever is wrong, with what was expected.
    """
    check_dataset(dataset)
    _check_copies(estimator.callbacks)
    network = _network(estimator, dataset.schema)
    model, columns, spec = network.model, network.columns, network.spec
    workers = estimator.getNumTrainWorkers()
    validation = _validation(estimator, dataset.schema)
    target = Target.parse(estimator.getStopWhen()) if estimator.getStopWhen() else None
    waiting = _check_watched(estimator.callbacks, target, model, columns, validation is not None)
    config = FitConfig(
        world_size=workers,
        batch_size=estimator.getBatchSize(),
        epochs=estimator.getEpochs(),
        seed=estimator.getSeed(),
        shuffle=estimator.getShuffle(),
        class_weight=_class_weight(estimator, spec.output),
        callbacks=(*estimator.callbacks, *_own_callbacks(estimator.callbacks, target)),
        verbose=estimator.getVerbose(),
        keep_optimizer=estimator.getOptimizerState() != "discard",
    )
    job = TrainJob(uuid.uuid4().hex[:12], spec, columns, config)
    choice = choose_backend(estimator.getOrDefault(estimator.backend), workers)
    backend = choice.backend
    _check_metrics(backend.name, workers, model, columns)
    _check_keeps_optimizer(backend, estimator.getOptimizerState())
    backend.check(dataset.sparkSession, job)
    prepare_workers(dataset.sparkSession)
    skips = estimator.getHandleInvalid() == "skip"
    request = Request(columns, estimator.getCacheDir(), validation, "skip" if skips else "error")
    reader = usable_reader(_reader(estimator))
    metadata = _label_metadata(estimator, dataset.schema)
    return Prepared(job, request, reader, choice, metadata, target, waiting)


def _reader(estimator: DLEstimator) -> ReaderName | None:
    name: Any = estimator.getReader()
    return None if name == "auto" else name


def check_dataset(dataset: Any) -> None:
    """Raise `ConfigurationError` unless it is a DataFrame of Spark."""
    from pyspark.sql import DataFrame

    if not isinstance(dataset, DataFrame):
        raise ConfigurationError(
            f"dataset must be a pyspark.sql.DataFrame. Got {type(dataset).__module__}."
            f"{type(dataset).__qualname__}: spark.createDataFrame(...) makes one of a pandas one."
        )


def _label_metadata(estimator: DLEstimator, schema: StructType) -> dict[str, Any]:
    return dict(schema[estimator.getLabelCol()].metadata or {})


def _optimizer_state(estimator: DLEstimator) -> bytes:
    """What the optimizer starts with; empty for anew."""
    if estimator.getOptimizerState() != "resume":
        return b""
    state = estimator._optimizer_state
    if not state:
        raise ConfigurationError(
            "optimizerState='resume' needs model=fitted, where fitted is a DLModel that holds the "
            "state of its optimizer. Got a model without one: fit it with optimizerState='keep' "
            "first."
        )
    given = (estimator.getLearningRate(), estimator.getOptimizer())
    return state if given == (None, None) else without_learning_rate(state)


def _check_keeps_optimizer(backend: Backend, wanted: str) -> None:
    if wanted != "discard" and not getattr(backend, "keeps_optimizer", False):
        raise ConfigurationError(
            f"optimizerState={wanted!r} needs a backend that hands over the optimizer's state: "
            f"'local', 'horovod', 'collective' or 'shuffle'. Got {backend.name!r}, where only "
            "optimizerState='discard' works."
        )


def _check_copies(callbacks: Sequence[Any]) -> None:
    """Each rank gets copies, so find out now what has none."""
    for callback in callbacks:
        try:
            copy.deepcopy(callback)
        except Exception as error:
            raise ConfigurationError(
                f"callbacks must be copyable, because each rank gets copies. "
                f"{type(callback).__name__} is not: {error}. Open files, locks and connections in "
                "on_train_begin instead of __init__."
            ) from error


def _try_compile(model: Any, compile_config: dict[str, Any], custom_objects: Any) -> None:
    """Workers do the same; what fails there fails here first."""
    try:
        keras_codec.compile_model(model, compile_config, custom_objects)
    except Exception as error:
        raise ConfigurationError(
            "The model cannot be compiled with its loss, optimizer and metrics: "
            f"{str(error).split('Full object config:')[0].strip()}"
        ) from error


def column_spec(
    estimator: DLEstimator | DLModel,
    schema: StructType,
    model: Any,
    compile_config: dict[str, Any],
    output: OutputSpec,
) -> ColumnSpec:
    """Columns that a stage names, as the tensors that `model` is trained or evaluated on."""
    weight_col = estimator._value("weightCol")
    data_columns.check_roles(
        {
            "featuresCol": estimator.getFeaturesCol(),
            "labelCol": estimator.getLabelCol(),
            "weightCol": weight_col,
            "validationIndicatorCol": estimator._value("validationIndicatorCol"),
        }
    )
    shape, takes = keras_codec.input_shape(model), keras_codec.input_dtype(model)
    return ColumnSpec(
        features=data_columns.feature_column(schema, estimator.getFeaturesCol(), shape, takes),
        label=_label(estimator.getLabelCol(), schema, model, compile_config, output),
        weight=data_columns.weight_column(schema, weight_col) if weight_col else None,
    )


def _label(
    name: str, schema: StructType, model: Any, compile_config: dict[str, Any], output: OutputSpec
) -> TensorColumn:
    """Class indices for classification, unless the loss wants one-hot rows."""
    loss = str(loss_name(compile_config.get("loss")))
    one_hot = loss.startswith("categorical")
    if output.problem == "multiclass":
        _check_pair(loss, schema, name, output.units)
    if output.problem == "binary":
        return data_columns.label_column(schema, name, (), 2)
    if output.problem == "multiclass" and not one_hot:
        return data_columns.label_column(schema, name, (), output.units)
    shape = (output.units,) if output.units > 1 else ()
    return data_columns.label_column(schema, name, shape, None)


def _check_pair(loss: str, schema: StructType, name: str, units: int) -> None:
    """Refuse labels that fit the other of two losses; what else may be wrong is found later."""
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql.types import ArrayType, BooleanType, NumericType

    found = schema[name].dataType if name in schema.names else None
    if loss == "categorical_crossentropy" and isinstance(found, (NumericType, BooleanType)):
        raise ConfigurationError(
            f"With loss 'categorical_crossentropy' the label column '{name}' must hold one-hot "
            f"rows of {units} elements. Got {found.simpleString()}: for class numbers use "
            "loss='sparse_categorical_crossentropy'."
        )
    if loss == "sparse_categorical_crossentropy" and isinstance(found, (ArrayType, VectorUDT)):
        raise ConfigurationError(
            f"With loss 'sparse_categorical_crossentropy' the label column '{name}' must hold a "
            f"class index per row. Got {found.simpleString()}: for one-hot rows use "
            "loss='categorical_crossentropy'."
        )


def _validation(estimator: DLEstimator, schema: StructType) -> ValidationSplit | None:
    indicator = estimator._value("validationIndicatorCol")
    if indicator:
        data_columns.check_indicator(schema, indicator)
        return ValidationSplit(indicator=indicator)
    fraction = estimator.getValidationFraction()
    if fraction:
        return ValidationSplit(fraction=fraction, seed=estimator.getSeed())
    return None


def _check_watched(
    callbacks: Sequence[Any],
    target: Target | None,
    model: Any,
    columns: ColumnSpec,
    validates: bool,
) -> tuple[Watched, ...]:
    """What callbacks and stopWhen wait for, compared with the metrics that are known.

    Returns those that wait for validation rows.
    """
    watched = [*monitored(callbacks), *([of_target(target, callbacks)] if target else [])]
    if not watched:
        return ()
    names = keras_codec.metric_names(model, columns)
    check_watched(watched, names, callbacks, validates)
    return waiting_for_validation(watched, names)


def _own_callbacks(callbacks: Sequence[Any], target: Target | None) -> list[Any]:
    """The library's callbacks, to stand behind those of the user."""
    from spark_dlobd.training.callbacks import CheckLogged, StopAtTarget

    watched = monitored(callbacks)
    return [
        *([CheckLogged(watched)] if watched else []),
        *([StopAtTarget(target)] if target else []),
    ]


def _class_weight(estimator: DLEstimator, output: OutputSpec) -> dict[int, float] | None:
    weights = estimator.getClassWeight()
    if not weights:
        return None
    if output.problem == "regression":
        raise ConfigurationError(
            f"classWeight needs a classification. Got {weights} for a regression: use weightCol, "
            "or set problemType='classification' if the output means classes."
        )
    classes = 2 if output.problem == "binary" else output.units
    if max(weights) >= classes:
        raise ConfigurationError(
            f"classWeight must name classes of the model, 0 to {classes - 1}. Got {weights}."
        )
    if all(weights.get(k, 1.0) == 0 for k in range(classes)):
        raise ConfigurationError(
            f"classWeight must give a weight above 0 to at least one of the {classes} classes. "
            f"Got {weights}, with which nothing would be learned."
        )
    return {int(k): float(v) for k, v in weights.items()}


def _check_metrics(backend: str, workers: int, model: Any, columns: ColumnSpec) -> None:
    """Where several processes hold metrics, their states have to become one."""
    # the state of parameter servers' workers is that of a chunk, also of a single worker
    if backend == "local" or (workers == 1 and backend != "parameter_server"):
        return
    from spark_dlobd.training.metric_states import check_mergeable

    check_mergeable(keras_codec.built_metrics(model, columns))


def _check_reduction(compile_config: dict[str, Any], workers: int) -> None:
    """Only a mean over rows can be averaged over workers."""
    loss = compile_config.get("loss")
    config = loss.get("config") if isinstance(loss, dict) else None
    reduction = config.get("reduction") if isinstance(config, dict) else None
    if workers > 1 and reduction in ("sum", "mean_with_sample_weight"):
        raise ConfigurationError(
            f"A loss with reduction={reduction!r} means something else on every number of "
            "workers. Use reduction='sum_over_batch_size' (Keras's default), or "
            "numTrainWorkers=1."
        )
