"""From the output of a network to predictions: arrays in, arrays out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_dlobd.errors import ConfigurationError, DataError
from spark_dlobd.job.network import OutputSpec

if TYPE_CHECKING:
    from pyspark.sql.types import StructField

OUTPUT_PARAMS = {
    "rawPrediction": "rawPredictionCol",
    "probability": "probabilityCol",
    "prediction": "predictionCol",
}
"""What a network gives, in the order of Spark's own models -> Param that names its column."""

Array = np.ndarray[Any, np.dtype[Any]]
OVERFLOW_ADVICE = (
    "Scale the features as for training, look for layers that overflow (exponential, division)"
)
_SMALLEST = float(np.finfo(np.float32).tiny)
SECTION, SHAPE = "spark_dlobd", "shape"
"""Where the metadata of a column of arrays have the shape of one row: a list of int."""
NOT_PREDICTED = -1.0
"""Stands in the place of a label that is not predicted."""


def num_classes(output: OutputSpec) -> int | None:
    """Classes of a row or of each of its positions, or labels; None for a regression."""
    if output.problem == "regression":
        return None
    if output.problem == "binary":
        return 2
    return output.shape[-1] if output.shape else output.units


def check_thresholds(thresholds: Sequence[float] | None, outputs: Sequence[OutputSpec]) -> None:
    """Raise `ConfigurationError` unless there is one threshold per class or label, or none."""
    if thresholds is not None and len(outputs) > 1:
        raise ConfigurationError(
            f"thresholds are for a network of one output. Got {thresholds!r} for {len(outputs)}: "
            "apply them to the columns of probabilities."
        )
    classes = num_classes(outputs[0])
    if thresholds is not None and (classes is None or len(thresholds) != classes):
        each = "label" if outputs[0].problem == "multilabel" else "class"
        raise ConfigurationError(
            f"thresholds must have one value per {each} ({classes or 'a regression has none'}). "
            f"Got {thresholds!r}."
        )


def output_fields(output: OutputSpec) -> tuple[str, ...]:
    """Which of `OUTPUT_PARAMS` a network gives, in that order."""
    return ("prediction",) if output.problem == "regression" else tuple(OUTPUT_PARAMS)


def field_shape(output: OutputSpec, field: str) -> tuple[int, ...]:
    """Shape of one of `output_fields` for a row; empty for a number."""
    if output.problem == "regression":
        return () if output.units == 1 else output.shape or (output.units,)
    if field == "prediction":
        return (output.units,) if output.problem == "multilabel" else output.positions
    return (*output.positions, num_classes(output) or 0)


def field_width(output: OutputSpec, field: str) -> int | None:
    """Elements of one of `output_fields` for a row; None for a number."""
    shape = field_shape(output, field)
    return math.prod(shape) if shape else None


def output_field(
    field: str, column: str, output: OutputSpec, label_metadata: dict[str, Any]
) -> StructField:
    """Runs on the driver. Type and metadata of one output column.

    Parameters
    ----------
    field : str
        One of `output_fields`.
    column : str
        Its name in the DataFrame.
    output : OutputSpec
        What the network's output means.
    label_metadata : dict
        Of the label column: predictions are labels.

    Returns
    -------
    pyspark.sql.types.StructField
        An array has its shape in the metadata, under `SHAPE`.
    """
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql import types as T

    if field != "prediction" and not output.positions:
        classes = {"ml_attr": {"num_attrs": num_classes(output)}}
        return T.StructField(column, VectorUDT(), True, classes)
    metadata = label_metadata if field == "prediction" else {}
    if metadata and "ml_attr" not in metadata:
        metadata = {"ml_attr": metadata}
    shape = field_shape(output, field)
    if shape and output.problem != "multilabel":
        metadata = {**metadata, SECTION: {SHAPE: list(shape)}}
    kind: T.DataType = T.ArrayType(T.DoubleType()) if shape else T.DoubleType()
    return T.StructField(column, kind, True, metadata)


def derive_outputs(
    network: Array, output: OutputSpec, thresholds: Sequence[float] | None = None
) -> dict[str, Array]:
    """Prediction, probability and raw prediction of a batch.

    Parameters
    ----------
    network : ndarray of shape (rows, ...)
        What the network returned.
    output : OutputSpec
        What that means.
    thresholds : sequence of float, optional
        One per class; the class with the largest probability / threshold wins. One per
        label; it is predicted where its probability is above, instead of 0.5.

    Returns
    -------
    dict of str to ndarray of float64
        A regression has ``prediction`` of shape ``(rows,)``, or ``(rows, units)``
        with several units. A classification has ``prediction`` of shape
        ``(rows,)``, ``probability`` and ``rawPrediction`` of shape ``(rows,
        classes)``; raw predictions are logits, or the logarithm of the
        probabilities where the network returns probabilities. With several labels all
        have the shape ``(rows, labels)``, raw predictions are logits, and a prediction is
        the index of the label in its place, or `NOT_PREDICTED`. With classes of each
        position of a row all have the shape ``(rows, elements)``.

    Examples
    --------
    >>> spec = OutputSpec("binary", 1)
    >>> derive_outputs(np.array([[0.75]]), spec)["probability"].tolist()
    [[0.25, 0.75]]
    """
    values = network.reshape(len(network), output.units).astype(np.float64)
    if output.problem == "regression":
        return {"prediction": values[:, 0] if output.units == 1 else values}
    if output.problem == "multilabel":
        raw, probability = _logits_and_probabilities(values, output.from_logits)
        above = probability > (0.5 if thresholds is None else np.asarray(thresholds))
        indices = np.arange(output.units, dtype=np.float64)
        return {
            "prediction": np.where(above, indices, NOT_PREDICTED),
            "probability": probability,
            "rawPrediction": raw,
        }
    if output.shape:
        values = values.reshape(-1, output.shape[-1])
    raw, probability = (_binary if output.problem == "binary" else _multiclass)(
        values, output.from_logits
    )
    found = {
        "prediction": _choose(probability, thresholds),
        "probability": probability,
        "rawPrediction": raw,
    }
    if not output.positions:
        return found
    shapes = {name: field_shape(output, name) for name in found}
    return {name: one.reshape(len(network), math.prod(shapes[name])) for name, one in found.items()}


def prediction_of(row: Array, output: OutputSpec) -> Any:
    """Prediction of one row, as the column has it: a float or a list of floats."""
    return (row[row != NOT_PREDICTED] if output.problem == "multilabel" else row).tolist()


def finite_rows(network: Array) -> Array:
    """Which rows of a network's output of shape ``(rows, ...)`` are finite throughout."""
    rows: Array = np.isfinite(network).reshape(len(network), -1).all(axis=1)
    return rows


def not_finite_error(finite: Array, columns: Sequence[str]) -> DataError:
    """Error of a network that makes NaN or infinity of valid rows of `columns`."""
    valid = f"column {columns[0]!r} is" if len(columns) == 1 else f"columns {list(columns)} are"
    return DataError(
        f"The network's output is NaN or infinite for {int((~finite).sum())} of {len(finite)} rows "
        f"of this batch, whose {valid} valid. {OVERFLOW_ADVICE}, or set "
        "handleInvalid='skip' to leave such rows out."
    )


def _binary(values: Array, from_logits: bool) -> tuple[Array, Array]:
    logit, positive = _logits_and_probabilities(values[:, 0], from_logits)
    negative = _sigmoid(-logit) if from_logits else 1.0 - positive
    return np.stack([-logit, logit], axis=1), np.stack([negative, positive], axis=1)


def _logits_and_probabilities(values: Array, from_logits: bool) -> tuple[Array, Array]:
    """Of each element by itself."""
    if from_logits:
        return values, _sigmoid(values)
    positive, negative = np.maximum(values, _SMALLEST), np.maximum(1.0 - values, _SMALLEST)
    return np.log(positive) - np.log(negative), values


def _sigmoid(logits: Array) -> Array:
    probability: Array = 1.0 / (1.0 + np.exp(-np.clip(logits, -700.0, 700.0)))
    return probability


def _multiclass(values: Array, from_logits: bool) -> tuple[Array, Array]:
    if not from_logits:
        return np.log(np.maximum(values, _SMALLEST)), values
    exponentials = np.exp(values - values.max(axis=1, keepdims=True, initial=-np.inf))
    return values, exponentials / exponentials.sum(axis=1, keepdims=True)


def _choose(probability: Array, thresholds: Sequence[float] | None) -> Array:
    score = probability
    if thresholds is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = probability / np.asarray(thresholds, np.float64)
        # 0 / 0: a class of probability 0 loses even with a threshold of 0.
        score = np.where(np.isnan(scaled), -1.0, scaled)
    best: Array = np.argmax(score, axis=1).astype(np.float64)
    return best
