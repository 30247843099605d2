"""Params and a DataFrame's schema become one frozen job. Runs on the driver.

Everything that can be wrong is found here, before the first Spark job.
"""

from __future__ import annotations

import copy
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spark_dlobd.backends.registry import Choice, choose_backend
from spark_dlobd.data import columns as data_columns
from spark_dlobd.data.request import Request
from spark_dlobd.data.row_groups import usable_reader
from spark_dlobd.data.transform import examined
from spark_dlobd.data.vectors import with_wide_vectors
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.estimators.columns import check_dataset, column_spec
from spark_dlobd.estimators.network import FittedNetwork, FittedOutput
from spark_dlobd.estimators.outputs import check_thresholds
from spark_dlobd.estimators.validation import check_types, validation_split, with_validation
from spark_dlobd.job.columns import ColumnSpec, TensorColumn
from spark_dlobd.job.dataset import ReaderName
from spark_dlobd.job.network import Network, OutputSpec
from spark_dlobd.job.target import Target
from spark_dlobd.job.train_job import FitConfig, TrainJob
from spark_dlobd.job.transformation import Transformation
from spark_dlobd.processes.worker_interpreter import prepare_workers
from spark_dlobd.spark import protection, slots
from spark_dlobd.training import keras_codec
from spark_dlobd.training.monitors import (
    Watched,
    check_watched,
    monitored,
    of_target,
    waiting_for_validation,
)
from spark_dlobd.training.optimizer_state import load_optimizer_state, without_learning_rate
from spark_dlobd.training.output import reductions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

    from spark_dlobd.backends.base import Backend
    from spark_dlobd.estimators.settings import FitSettings


@dataclass(frozen=True)
class Prepared:
    """A checked fit.

    Attributes
    ----------
    job : TrainJob
        What to train.
    rows : DataFrame
        On what: the rows that train, and those that validate.
    request : Request
        What of them.
    reader : {"petastorm", "pyarrow"}
        Through what workers read them.
    choice : Choice
        With what, and why.
    untrained : FittedNetwork
        What the fitted model will hold, but for the training.
    target : Target or None
        What ends the training early.
    waiting : tuple of Watched
        Who waits for metrics of validation rows.
    """

    job: TrainJob
    rows: DataFrame
    request: Request
    reader: ReaderName
    choice: Choice
    untrained: FittedNetwork
    target: Target | None = None
    waiting: tuple[Watched, ...] = ()


@dataclass(frozen=True)
class _Checked:
    """A network that fits Params and schema, with the columns it is for; `model` is compiled."""

    model: Any
    network: Network
    outputs: tuple[FittedOutput, ...]
    columns: ColumnSpec

    @property
    def untrained(self) -> FittedNetwork:
        """What the fitted model will hold, but for the training."""
        inputs = (
            TensorColumn(one.name, one.network_dtype, one.shape, part=one.part, stored=one.stored)
            for one in self.columns.inputs
        )
        return FittedNetwork(self.network, tuple(inputs), self.outputs)

    @property
    def specs(self) -> tuple[OutputSpec, ...]:
        """What each output means."""
        return tuple(output.spec for output in self.outputs)


def _checked(settings: FitSettings, schema: StructType) -> _Checked:
    """Check Params, network and schema against each other."""
    settings.check_params()
    model = settings.getModel()
    compile_config = keras_codec.compile_config(
        model,
        loss=settings.getLoss(),
        optimizer=settings.getOptimizer(),
        metrics=settings.getMetrics(),
        learning_rate=settings.getLearningRate(),
        loss_weights=settings.getLossWeights(),
    )
    problem: Any = settings.getProblemType()
    specs = keras_codec.output_specs(model, compile_config, problem)
    check_thresholds(settings._value("thresholds"), specs)
    columns = column_spec(settings, schema, model, compile_config, specs)
    custom_objects = keras_codec.custom_objects_of(model, compile_config)
    _try_compile(model, compile_config, custom_objects)
    state = _optimizer_state(settings)
    if state:
        load_optimizer_state(model, state)  # what does not fit is found here
    network = Network(settings.network.archive, compile_config, custom_objects, state)
    names = {label.part: label.name for label in columns.labels}
    outputs = (
        FittedOutput(spec, _metadata(schema, names.get(part)))
        for spec, part in zip(specs, columns.y.names, strict=True)
    )
    return _Checked(model, network, tuple(outputs), columns)


def _metadata(schema: StructType, column: str | None) -> dict[str, Any]:
    if column is None:
        return {}
    return dict(data_columns.find_field(schema, column, "label").metadata or {})


def untrained(settings: FitSettings, schema: StructType) -> FittedNetwork:
    """Return what a fit on a DataFrame of `schema` would, but for the training.

    Raises
    ------
    ConfigurationError, ModelError
        Whatever is wrong, with what was expected.
    """
    checked = _checked(settings, schema)
    _check_reduction(checked.network.compile_config, settings.getNumTrainWorkers())
    validation_split(settings, schema)
    _check_validation_data(settings, schema, checked)
    _class_weight(settings, checked.specs)
    _transformation(settings, checked.columns)
    return checked.untrained


def prepare(settings: FitSettings, dataset: DataFrame) -> Prepared:
    """Check every setting against the model, the schema and the cluster.

    Raises
    ------
    ConfigurationError, ModelError
        Whatever is wrong, with what was expected.
    """
    check_dataset(dataset)
    _check_copies(settings.callbacks)
    checked = _checked(settings, dataset.schema)
    validation = validation_split(settings, dataset.schema)
    _check_validation_data(settings, dataset.schema, checked)
    rows = _rows(settings, dataset, checked)
    if rows is not dataset:
        checked = _of_rows(settings, checked, rows.schema)
    model, columns = checked.model, with_wide_vectors(rows.schema, checked.columns)
    workers, why = _workers(settings, dataset, checked)
    _check_reduction(checked.network.compile_config, workers)
    target = Target.parse(settings.getStopWhen()) if settings.getStopWhen() else None
    waiting = _check_watched(settings.callbacks, target, model, columns, validation is not None)
    config = FitConfig(
        world_size=workers,
        batch_size=settings.getBatchSize(),
        epochs=settings.getEpochs(),
        seed=settings.getSeed(),
        shuffle=settings.getShuffle(),
        class_weight=_class_weight(settings, checked.specs),
        callbacks=(*settings.callbacks, *_own_callbacks(settings.callbacks, target)),
        verbose=settings.getVerbose(),
        keep_optimizer=settings.getOptimizerState() != "discard",
        transformation=_transformation(settings, columns),
    )
    job = TrainJob(uuid.uuid4().hex[:12], checked.network, checked.specs, columns, config)
    choice = choose_backend(
        settings.getOrDefault(settings.backend), workers, protection(dataset.sparkSession)
    )
    if why is not None:
        choice = replace(choice, reason=f"{choice.reason}; numTrainWorkers=0: {why}")
    backend = choice.backend
    _check_metrics(backend.name, workers, model, columns)
    _check_keeps_optimizer(backend, settings.getOptimizerState())
    backend.check(dataset.sparkSession, job)
    prepare_workers(dataset.sparkSession)
    skips = settings.getHandleInvalid() == "skip"
    request = Request(columns, settings.getCacheDir(), validation, "skip" if skips else "error")
    reader = usable_reader(_reader(settings))
    return Prepared(job, rows, request, reader, choice, checked.untrained, target, waiting)


def _workers(
    settings: FitSettings, dataset: DataFrame, checked: _Checked
) -> tuple[int, str | None]:
    """How many workers train, and why where that was not said."""
    given = settings.getNumTrainWorkers()
    if given:
        return given, None
    from spark_dlobd.backends.workers import Room, Work, choose_workers
    from spark_dlobd.training.work import multiply_adds

    available = slots(dataset.sparkSession)
    param = settings.getOrDefault(settings.backend)
    several = choose_backend(param, 2, protection(dataset.sparkSession)).backend.name
    weights, _ = keras_codec.weights_and_bytes(checked.model)
    work = Work(
        rows=dataset.count(),
        epochs=settings.getEpochs(),
        batch_size=settings.getBatchSize(),
        multiply_adds=multiply_adds(checked.model),
        weights=weights,
    )
    room = Room(available.slots, available.cores_per_task, os.cpu_count() or 1, available.is_local)
    return choose_workers(work, room, several)


def _reader(settings: FitSettings) -> ReaderName | None:
    name: Any = settings.getReader()
    return None if name == "auto" else name


def _optimizer_state(settings: FitSettings) -> bytes:
    """What the optimizer starts with; empty for anew."""
    if settings.getOptimizerState() != "resume":
        return b""
    state = settings.network.optimizer_state
    if not state:
        raise ConfigurationError(
            "optimizerState='resume' needs model=fitted, where fitted is a DLModel that holds the "
            "state of its optimizer. Got a model without one: fit it with optimizerState='keep' "
            "first."
        )
    given = (settings.getLearningRate(), settings.getOptimizer())
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


def _transformation(settings: FitSettings, columns: ColumnSpec) -> Transformation | None:
    """What changes batches that train, tried here; workers get it by pickle."""
    if settings.transformation is None:
        return None
    import cloudpickle

    found = examined(settings.transformation, columns)
    try:
        cloudpickle.dumps(found)
    except Exception as error:
        raise ConfigurationError(
            f"transformation {found.name!r} must be picklable, because workers get it by pickle. "
            f"It is not: {error}. Make what it holds inside of it, such as files, locks and "
            "sessions."
        ) from error
    return found


def _try_compile(model: Any, compile_config: dict[str, Any], custom_objects: Any) -> None:
    """Workers do the same; what fails there fails here first."""
    try:
        keras_codec.compile_model(model, compile_config, custom_objects)
    except Exception as error:
        raise ConfigurationError(
            "The model cannot be compiled with its loss, optimizer and metrics: "
            f"{str(error).split('Full object config:')[0].strip()}"
        ) from error


def _rows(settings: FitSettings, dataset: DataFrame, checked: _Checked) -> DataFrame:
    """What is written: `dataset`, with `validationData` below it where there is one."""
    if settings.validationData is None:
        return dataset
    return with_validation(dataset, settings.validationData, checked.columns)


def _of_rows(settings: FitSettings, checked: _Checked, schema: StructType) -> _Checked:
    """The same with columns as both DataFrames together have them."""
    config, specs = checked.network.compile_config, checked.specs
    columns = column_spec(settings, schema, checked.model, config, specs)
    return replace(checked, columns=columns)


def _check_validation_data(settings: FitSettings, schema: StructType, checked: _Checked) -> None:
    """Refuse `validationData` whose columns are not like those of `schema`."""
    if settings.validationData is None:
        return
    other = settings.validationData.schema
    config, specs = checked.network.compile_config, checked.specs
    try:
        column_spec(settings, other, checked.model, config, specs)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"validationData must have the columns of the training rows, as this stage takes them. "
            f"{error}"
        ) from error
    check_types(schema, other, checked.columns)


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


def _class_weight(settings: FitSettings, outputs: Sequence[OutputSpec]) -> dict[int, float] | None:
    weights = settings.getClassWeight()
    if not weights:
        return None
    if len(outputs) > 1:
        raise ConfigurationError(
            f"classWeight is for a network of one output. Got {weights} for {len(outputs)}: give "
            "each output a weightCol, as in weightCol={'output': 'column'}."
        )
    (output,) = outputs
    if output.problem == "regression":
        raise ConfigurationError(
            f"classWeight needs a classification. Got {weights} for a regression: use weightCol, "
            "or set problemType='classification' if the output means classes."
        )
    if output.problem == "multilabel" or output.positions:
        several = "labels" if output.problem == "multilabel" else "classes"
        raise ConfigurationError(
            f"classWeight needs a classification with one class per row. Got {weights} for several "
            f"{several} a row: use weightCol."
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


def _check_reduction(compile_config: Mapping[str, Any], workers: int) -> None:
    """Only a mean over rows can be averaged over workers."""
    for reduction in reductions(compile_config):
        if workers == 1 or reduction not in ("sum", "mean_with_sample_weight"):
            continue
        raise ConfigurationError(
            f"A loss with reduction={reduction!r} means something else on every number of "
            "workers. Use reduction='sum_over_batch_size' (Keras's default), or "
            "numTrainWorkers=1."
        )
