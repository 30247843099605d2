"""Columns that a stage names, as tensors of its network. Runs on the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spark_dlobd.data import columns as data_columns
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.estimators.params import PredictionParams
from spark_dlobd.job.columns import ColumnSpec, TensorColumn
from spark_dlobd.job.network import OutputSpec
from spark_dlobd.training import keras_codec
from spark_dlobd.training.output import loss_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql.types import StructType


def check_dataset(dataset: Any) -> None:
    """Raise `ConfigurationError` unless it is a DataFrame of Spark."""
    from pyspark.sql import DataFrame

    if not isinstance(dataset, DataFrame):
        raise ConfigurationError(
            f"dataset must be a pyspark.sql.DataFrame. Got {type(dataset).__module__}."
            f"{type(dataset).__qualname__}: spark.createDataFrame(...) makes one of a pandas one."
        )


def column_spec(
    stage: PredictionParams,
    schema: StructType,
    model: Any,
    compile_config: Mapping[str, Any],
    output: OutputSpec,
) -> ColumnSpec:
    """Columns that a stage names, as the tensors that `model` is trained or evaluated on."""
    weight_col = stage._value("weightCol")
    indicator = "validationIndicatorCol"
    data_columns.check_roles(
        {
            "featuresCol": stage.getFeaturesCol(),
            "labelCol": stage.getLabelCol(),
            "weightCol": weight_col,
            indicator: stage._value(indicator),
        }
    )
    shape, takes = keras_codec.input_shape(model), keras_codec.input_dtype(model)
    return ColumnSpec(
        features=data_columns.feature_column(schema, stage.getFeaturesCol(), shape, takes),
        label=_label(stage.getLabelCol(), schema, model, compile_config, output),
        weight=data_columns.weight_column(schema, weight_col) if weight_col else None,
    )


def _label(
    name: str, schema: StructType, model: Any, compile_config: Mapping[str, Any], output: OutputSpec
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
