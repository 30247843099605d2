"""Columns that a stage names, as tensors of its network. Runs on the driver."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spark_dlobd.data import columns as data_columns
from spark_dlobd.data.image_columns import image_column
from spark_dlobd.data.sequences import padding_of, sequence_column
from spark_dlobd.data.side_by_side import side_by_side
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.estimators.outputs import num_classes
from spark_dlobd.estimators.params import PredictionParams
from spark_dlobd.job.columns import ColumnSpec, TensorColumn
from spark_dlobd.job.input_columns import (
    ImageColumn,
    InputColumn,
    SequenceColumn,
    input_column,
)
from spark_dlobd.job.network import OutputSpec
from spark_dlobd.training.output import loss_name, losses_of
from spark_dlobd.training.signature import Signature, Tensor, inputs_of, outputs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pyspark.sql.types import StructType


def check_dataset(dataset: Any, name: str = "dataset") -> None:
    """Raise `ConfigurationError` unless it is a DataFrame of Spark."""
    from pyspark.sql import DataFrame

    if not isinstance(dataset, DataFrame):
        raise ConfigurationError(
            f"{name} must be a pyspark.sql.DataFrame. Got {type(dataset).__module__}."
            f"{type(dataset).__qualname__}: spark.createDataFrame(...) makes one of a pandas one."
        )


def column_spec(
    stage: PredictionParams,
    schema: StructType,
    model: Any,
    compile_config: Mapping[str, Any],
    outputs: Sequence[OutputSpec],
) -> ColumnSpec:
    """Columns that a stage names, as the tensors that `model` is trained or evaluated on."""
    takes, gives = inputs_of(model), outputs_of(model)
    losses = losses_of(compile_config, gives)
    labels = _labels(stage, gives, losses)
    parts = dict(zip(losses, gives.parts, strict=True))
    specs = dict(zip(losses, outputs, strict=True))
    shapes = {tensor.name: tensor.shape for tensor in gives.tensors}
    columns = ColumnSpec(
        inputs=input_columns(stage, schema, takes.tensors, takes.parts),
        labels=tuple(
            _label(column, schema, losses[name], specs[name], shapes[name], parts[name])
            for name, column in labels.items()
        ),
        weights=_weights(stage, schema, {name: shapes[name] for name in labels}, parts),
        x=takes.structure,
        y=gives.structure,
    )
    classifying = {parts[name] for name in labels if specs[name].problem != "regression"}
    data_columns.check_roles(columns, stage._value("validationIndicatorCol"), classifying)
    return columns


def input_columns(
    stage: PredictionParams, schema: StructType, tensors: Sequence[Tensor], parts: Sequence[str]
) -> tuple[TensorColumn, ...]:
    """Columns that a stage names for the inputs of a network, in its order.

    Parameters
    ----------
    stage : PredictionParams
        Its Params ``featuresCol``, ``inputCols`` and ``inputs``.
    schema : pyspark.sql.types.StructType
        Of the DataFrame.
    tensors : sequence of Tensor
        What the network takes.
    parts : sequence of str
        Name of each in the network's structure.

    Raises
    ------
    ConfigurationError
        An input has no column, a column no input, or the two do not fit.
    """
    given = _by_input(stage, [tensor.name for tensor in tensors])
    return tuple(
        _input(schema, columns, tensor, part)
        for columns, tensor, part in zip(given, tensors, parts, strict=True)
    )


def _input(schema: StructType, columns: Any, tensor: Tensor, part: str) -> TensorColumn:
    if isinstance(columns, str):
        return data_columns.feature_column(schema, columns, tensor.shape, tensor.dtype, part)
    if isinstance(columns, dict):
        given = input_column(columns)
        return _DESCRIBED[type(given)](schema, given, tensor.shape, tensor.dtype, part)
    return side_by_side(schema, columns, tensor.shape, tensor.dtype, part)


_DESCRIBED: dict[type[InputColumn], Callable[..., TensorColumn]] = {
    ImageColumn: image_column,
    SequenceColumn: sequence_column,
}
"""Kind of column -> function that describes it as a tensor."""


def row_columns(
    stage: PredictionParams, inputs: Sequence[TensorColumn]
) -> tuple[TensorColumn, ...]:
    """Inputs of a fitted network with what its columns say of single rows."""
    given = stage._value("inputs") or {}
    if len(inputs) == 1 and len(given) == 1:
        given = {inputs[0].part: next(iter(given.values()))}
    return tuple(_padded(column, given.get(column.part)) for column in inputs)


def _padded(column: TensorColumn, given: Any) -> TensorColumn:
    sequence = input_column(given) if isinstance(given, dict) else None
    if not isinstance(sequence, SequenceColumn):
        return column
    return replace(column, padding=padding_of(sequence, column.network_dtype))


def _by_input(stage: PredictionParams, names: Sequence[str]) -> list[Any]:
    """What is said of the columns of each input."""
    given = stage._value("inputs")
    if given is not None:
        if len(names) == len(given) == 1:
            # there is nothing to be mixed up, and Keras renames what nobody named
            return list(given.values())
        missing, unknown = (
            [n for n in names if n not in given],
            [n for n in given if n not in names],
        )
        if missing or unknown:
            raise ConfigurationError(
                f"inputs must name every input of the network: {_listed(names)}. Got "
                f"{_listed(given)}{_differences(missing, unknown)}."
            )
        return [given[name] for name in names]
    several = stage._value("inputCols")
    if len(names) > 1:
        param = "featuresCol" if several is None else "inputCols"
        example = ", ".join(f"{name!r}: 'column'" for name in names)
        raise ConfigurationError(
            f"The network has {len(names)} inputs, {_listed(names)}, so {param} cannot say which "
            f"columns they take. Set inputs={{{example}}}."
        )
    return [stage.getFeaturesCol() if several is None else several]


def _differences(missing: Sequence[str], unknown: Sequence[str]) -> str:
    parts = [f"; without a column: {_listed(missing)}"] if missing else []
    return "".join([*parts, *([f"; no such input: {_listed(unknown)}"] if unknown else [])])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _labels(stage: PredictionParams, gives: Signature, losses: Mapping[str, Any]) -> dict[str, str]:
    """Column of each output that learns, by its name, in the order of outputs."""
    given = stage._value("labels")
    names = list(losses)
    learning = [name for name in names if losses[name] is not None or len(names) == 1]
    if given is None:
        if len(learning) != 1:
            example = ", ".join(f"{name!r}: 'column'" for name in learning)
            raise ConfigurationError(
                f"The network has {len(learning)} outputs with a loss, {_listed(learning)}, so "
                f"labelCol cannot say what they learn. Set labels={{{example}}}."
            )
        return {learning[0]: stage.getLabelCol()}
    missing, unknown = [n for n in learning if n not in given], [n for n in given if n not in names]
    if unknown:
        raise ConfigurationError(
            f"labels must name outputs of the network: {_listed(names)}. Got {_listed(unknown)}."
        )
    if missing:
        raise ConfigurationError(
            f"labels must name a column for every output with a loss. {_listed(missing)} has none: "
            "add its column, or give loss as a dict of the outputs that are to learn."
        )
    idle = [name for name in given if name not in learning]
    if idle:
        raise ConfigurationError(
            f"labels names {_listed(idle)}, which has no loss, so its column would be read for "
            "nothing. Add its loss, or leave its label out."
        )
    return {name: given[name] for name in names if name in given}


def _weights(
    stage: PredictionParams,
    schema: StructType,
    labels: Mapping[str, tuple[int, ...]],
    parts: Mapping[str, str],
) -> tuple[TensorColumn, ...]:
    """Weights for outputs of these shapes: Keras has a loss for each position of a row."""
    given = stage._value("weightCol")
    if not given:
        return ()
    axes = {name: max(0, len(shape) - 1) for name, shape in labels.items()}
    if isinstance(given, str):
        if set(axes.values()) == {0} or len(parts) == 1:
            return (data_columns.weight_column(schema, given, axes=next(iter(axes.values()))),)
        given = dict.fromkeys(labels, given)
    unknown = [name for name in given if name not in labels]
    if unknown:
        raise ConfigurationError(
            f"weightCol must name outputs that have a label: {_listed(labels)}. Got "
            f"{_listed(unknown)}."
        )
    if len(parts) == 1:
        ((name, column),) = given.items()
        return (data_columns.weight_column(schema, column, axes=axes[name]),)
    return tuple(
        data_columns.weight_column(schema, given[name], parts[name], axes[name])
        for name in labels
        if name in given
    )


def _label(
    name: str,
    schema: StructType,
    loss: Any,
    output: OutputSpec,
    shape: tuple[int, ...],
    part: str,
) -> TensorColumn:
    """Class indices for classification, unless the loss wants one-hot rows."""
    loss = str(loss_name(loss))
    one_hot = loss.startswith("categorical")
    classes = num_classes(output) or 0
    if output.problem == "multiclass" and not output.positions:
        _check_pair(loss, schema, name, classes)
    if output.problem == "binary":
        return data_columns.label_column(schema, name, (), 2, part)
    if output.problem == "multilabel":
        return data_columns.flags_column(schema, name, shape, part)
    if output.problem == "multiclass" and not one_hot:
        return data_columns.label_column(schema, name, output.positions, classes, part)
    return data_columns.label_column(schema, name, shape if output.units > 1 else (), None, part)


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
