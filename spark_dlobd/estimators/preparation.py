"""Params and a DataFrame's schema become one frozen job. Runs on the driver.

Everything that can be wrong is found here, before the first Spark job.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spark_dlobd.backends.registry import choose_backend, from_param
from spark_dlobd.data import columns as data_columns
from spark_dlobd.data.split import ValidationSplit
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.estimators.outputs import check_thresholds
from spark_dlobd.training import keras_codec
from spark_dlobd.training.job import (
    ColumnSpec,
    FitConfig,
    InvalidRows,
    ModelSpec,
    OutputSpec,
    TensorColumn,
    TrainJob,
)
from spark_dlobd.training.output import loss_name
from spark_dlobd.training.target import Target

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from spark_dlobd.backends.base import Backend
    from spark_dlobd.estimators.estimator import DLEstimator


@dataclass(frozen=True)
class DataRequest:
    """What determines the materialized data; equal requests share one materialization."""

    columns: ColumnSpec
    validation: ValidationSplit | None
    handle_invalid: InvalidRows
    cache_dir: str | None
    world_size: int


@dataclass(frozen=True)
class Prepared:
    """A checked fit.

    Attributes
    ----------
    job : TrainJob
        What to train.
    request : DataRequest
        On which rows.
    backend : Backend
        With what.
    reason : str
        Why this backend.
    label_metadata : dict
        Metadata of the label column.
    target : Target or None
        What ends the training early.
    model_size : tuple of (int, int) or None
        Trainable weights and bytes of their gradients, where ``backend="auto"`` is still to
        compare Horovod with the shuffle, once the rows are counted; `backend` is what it
        takes if it cannot. None where the choice is made.
    """

    job: TrainJob
    request: DataRequest
    backend: Backend
    reason: str
    label_metadata: dict[str, Any]
    target: Target | None = None
    model_size: tuple[int, int] | None = None


def prepare(estimator: DLEstimator, dataset: DataFrame) -> Prepared:
    """Check every setting against the model, the schema and the cluster.

    Raises
    ------
    ConfigurationError, ModelError
        Whatever is wrong, with what was expected.
    """
    _check_dataset(dataset)
    estimator.check_params()
    _check_copies(estimator.callbacks)
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
    workers = estimator.getNumTrainWorkers()
    _check_reduction(compile_config, workers)
    check_thresholds(estimator._value("thresholds"), output)
    columns = _columns(estimator, dataset.schema, model, compile_config, output)
    custom_objects = keras_codec.custom_objects_of(model, compile_config)
    _try_compile(model, compile_config, custom_objects)
    validation = _validation(estimator, dataset.schema)
    target = _target(estimator.getStopWhen(), model, columns, validation is not None)
    spec = ModelSpec(
        archive=estimator.model_archive,
        compile_config=compile_config,
        output=output,
        custom_objects=custom_objects,
    )
    config = FitConfig(
        world_size=workers,
        batch_size=estimator.getBatchSize(),
        epochs=estimator.getEpochs(),
        seed=estimator.getSeed(),
        shuffle=estimator.getShuffle(),
        class_weight=_class_weight(estimator, output),
        callbacks=(*estimator.callbacks, *_stop_at(target)),
        verbose=estimator.getVerbose(),
    )
    job = TrainJob(uuid.uuid4().hex[:12], spec, columns, config)
    asked = estimator.getOrDefault(estimator.backend)
    backend, reason = choose_backend(asked, dataset.sparkSession, workers)
    backend.check(dataset.sparkSession, job)
    request = DataRequest(
        columns,
        validation,
        "skip" if estimator.getHandleInvalid() == "skip" else "error",
        estimator.getCacheDir(),
        workers,
    )
    metadata = dict(dataset.schema[estimator.getLabelCol()].metadata or {})
    is_open = asked == "auto" and backend.name == "horovod"
    model_size = keras_codec.weights_and_bytes(model) if is_open else None
    if is_open:
        reason += "; compared with the shuffle once the rows are counted"
    return Prepared(job, request, backend, reason, metadata, target, model_size)


def decide(prepared: Prepared, spark: SparkSession, steps_per_epoch: int) -> Prepared:
    """Make the choice that `prepare` left open, if it did. May run Spark jobs.

    Parameters
    ----------
    prepared : Prepared
        From `prepare`.
    spark : SparkSession
        Where.
    steps_per_epoch : int
        Known once the rows are written.
    """
    if prepared.model_size is None:
        return prepared
    from spark_dlobd.cost.choice import choose_by_cost

    steps = prepared.job.config.epochs * steps_per_epoch
    name, reason = choose_by_cost(spark, prepared.job, steps, prepared.model_size)
    backend = from_param(name).create()
    return replace(prepared, backend=backend, reason=reason, model_size=None)


def _check_dataset(dataset: Any) -> None:
    from pyspark.sql import DataFrame

    if not isinstance(dataset, DataFrame):
        raise ConfigurationError(
            f"dataset must be a pyspark.sql.DataFrame. Got {type(dataset).__module__}."
            f"{type(dataset).__qualname__}: spark.createDataFrame(...) makes one of a pandas one."
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


def _columns(
    estimator: DLEstimator,
    schema: StructType,
    model: Any,
    compile_config: dict[str, Any],
    output: OutputSpec,
) -> ColumnSpec:
    weight_col = estimator._value("weightCol")
    data_columns.check_roles(
        {
            "featuresCol": estimator.getFeaturesCol(),
            "labelCol": estimator.getLabelCol(),
            "weightCol": weight_col,
            "validationIndicatorCol": estimator._value("validationIndicatorCol"),
        }
    )
    shape = keras_codec.input_shape(model)
    return ColumnSpec(
        features=data_columns.feature_column(schema, estimator.getFeaturesCol(), shape),
        label=_label(estimator.getLabelCol(), schema, model, compile_config, output),
        weight=data_columns.weight_column(schema, weight_col) if weight_col else None,
    )


def _label(
    name: str, schema: StructType, model: Any, compile_config: dict[str, Any], output: OutputSpec
) -> TensorColumn:
    """Class indices for classification, unless the loss wants one-hot rows."""
    one_hot = str(loss_name(compile_config.get("loss"))).startswith("categorical")
    if output.problem == "binary":
        return data_columns.label_column(schema, name, (), 2)
    if output.problem == "multiclass" and not one_hot:
        return data_columns.label_column(schema, name, (), output.units)
    shape = (output.units,) if output.units > 1 else ()
    return data_columns.label_column(schema, name, shape, None)


def _validation(estimator: DLEstimator, schema: StructType) -> ValidationSplit | None:
    indicator = estimator._value("validationIndicatorCol")
    if indicator:
        data_columns.check_indicator(schema, indicator)
        return ValidationSplit(indicator=indicator)
    fraction = estimator.getValidationFraction()
    if fraction:
        return ValidationSplit(fraction=fraction, seed=estimator.getSeed())
    return None


def _target(text: str | None, model: Any, columns: ColumnSpec, validates: bool) -> Target | None:
    """The Param stopWhen, checked against the metrics of the model where they are known."""
    if text is None:
        return None
    target = Target.parse(text)
    names = keras_codec.metric_names(model, columns)
    if names is None:
        return target  # the callback compares with what the first epoch logs
    known = [*names, *(f"val_{name}" for name in names if validates)]
    if target.metric not in known:
        hint = (
            "Names with val_ need validation rows: set validationFraction or "
            "validationIndicatorCol."
        )
        raise ConfigurationError(
            f"stopWhen must name one of {', '.join(map(repr, known))}. Got {text!r}."
            + ("" if validates else f" {hint}")
        )
    return target


def _stop_at(target: Target | None) -> list[Any]:
    if target is None:
        return []
    from spark_dlobd.training.callbacks import StopAtTarget

    return [StopAtTarget(target)]


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
    return {int(k): float(v) for k, v in weights.items()}


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
