"""What the output of a Keras model means, read off the model and its loss."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any, Literal

from spark_dlobd.errors import ConfigurationError, ModelError
from spark_dlobd.job.network import OutputSpec, ProblemType
from spark_dlobd.users_line import users_stacklevel

_MULTICLASS = frozenset(
    {
        "sparse_categorical_crossentropy",
        "categorical_crossentropy",
        "categorical_focal_crossentropy",
    }
)
_BINARY = frozenset({"binary_crossentropy", "binary_focal_crossentropy"})
_ALIASES = {"bce": "binary_crossentropy"}
_PROBABILITY_ACTIVATIONS = frozenset({"softmax", "sigmoid"})


def output_spec(
    model: Any,
    compile_config: Mapping[str, Any],
    problem_override: Literal["auto", "classification", "regression"] | None = None,
) -> OutputSpec:
    """Runs on the driver. How predictions follow from the model's output.

    The categorical crossentropies make a multiclass problem, the binary ones over
    a single unit a binary one, and everything else is regression: hinge losses
    too, because their output is a margin, unless `problem_override` asks for a
    classification (the margins then count as logits).

    Parameters
    ----------
    model : keras.Model
        The model.
    compile_config : mapping
        What `compile_config` returned.
    problem_override : {"auto", "classification", "regression"}, optional
        Overrules the loss.

    Raises
    ------
    ModelError
        If a classifier's output is not of shape ``(batch, units)``.
    """
    shape = _output_shape(model)
    units = 1
    for extent in shape:
        units *= extent
    loss = _single(compile_config.get("loss"))
    name = loss_name(loss)
    problem = _problem(name, units, problem_override or "auto")
    if problem == "regression":
        return OutputSpec("regression", units)
    if len(shape) > 1:
        raise ModelError(
            f"A classifier's output must have shape (batch, units). Model {model.name!r} gives "
            f"(batch, {', '.join(map(str, shape))}): flatten it, or set problemType='regression'."
        )
    if problem == "multiclass" and units < 2:
        raise ModelError(
            f"Loss {name!r} needs one output unit per class; model {model.name!r} has {units}. Use "
            "binary_crossentropy for one unit, or add units to the last layer."
        )
    return OutputSpec(problem, units, _from_logits(model, loss, name))


def _problem(name: str | None, units: int, override: str) -> ProblemType:
    if override == "regression":
        return "regression"
    if override == "classification":
        return "binary" if units == 1 else "multiclass"
    if override != "auto":
        raise ConfigurationError(
            f"problemType must be one of 'auto', 'classification', 'regression'. Got {override!r}."
        )
    if name in _MULTICLASS:
        return "multiclass"
    return "binary" if name in _BINARY and units == 1 else "regression"


def _from_logits(model: Any, loss: Any, name: str | None) -> bool:
    """Whether the output still needs softmax or sigmoid; warns of a contradiction."""
    activation = _last_activation(model)
    config = loss.get("config") if isinstance(loss, dict) else None
    declared = config.get("from_logits") if isinstance(config, dict) else None
    if name not in _MULTICLASS | _BINARY:
        if declared is not None:
            return bool(declared)
        return activation not in _PROBABILITY_ACTIVATIONS
    from_logits = bool(declared)
    if not from_logits and activation == "linear":
        warnings.warn(
            f"The last layer of model {model.name!r} is linear, but the loss {name!r} expects "
            "probabilities. Add a softmax or sigmoid activation, or use the loss with "
            "from_logits=True.",
            UserWarning,
            stacklevel=users_stacklevel(),
        )
    if from_logits and activation in _PROBABILITY_ACTIVATIONS:
        warnings.warn(
            f"The last layer of model {model.name!r} applies {activation}, but the loss {name!r} "
            "has from_logits=True and applies it again. Drop one of the two.",
            UserWarning,
            stacklevel=users_stacklevel(),
        )
    return from_logits


def _output_shape(model: Any) -> tuple[int, ...]:
    import keras

    outputs = getattr(model, "outputs", None)
    if not outputs:
        batch_shape = (model.get_build_config() or {}).get("input_shape")
        if not batch_shape:
            raise ModelError(f"Model {model.name!r} does not say which input it takes.")
        row = keras.KerasTensor((None, *batch_shape[1:]), dtype=model.input_dtype)
        outputs = model.compute_output_spec(row)
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    if len(outputs) != 1 or not hasattr(outputs[0], "shape"):
        raise ModelError(
            f"Model {model.name!r} must have one output tensor; several outputs are not "
            "supported yet."
        )
    shape = tuple(outputs[0].shape[1:])
    if any(extent is None for extent in shape):
        raise ModelError(
            f"Model {model.name!r} gives rows of shape {shape}; every axis needs a fixed length."
        )
    return tuple(int(extent) for extent in shape)


def _last_activation(model: Any) -> str | None:
    """Name of the activation of a Keras layer that ends the model, if it is known."""
    import keras

    outputs = getattr(model, "outputs", None)
    if not outputs:
        return None
    layer = outputs[0]._keras_history.operation
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    if not isinstance(layer, (keras.layers.Dense, keras.layers.Activation)):
        return None
    return getattr(layer.activation, "__name__", None)


def _single(value: Any) -> Any:
    """The one loss of a list or a dict of one output."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return value[0]
    if isinstance(value, dict) and "class_name" not in value and len(value) == 1:
        return next(iter(value.values()))
    return value


def loss_name(loss: Any) -> str | None:
    """Snake-case name of a serialized loss; None for one that is not Keras's own."""
    loss = _single(loss)
    if isinstance(loss, dict):
        module = loss.get("module") or ""
        if loss.get("class_name") == "function":
            loss = loss.get("config")
        elif not module.startswith("keras"):
            return None
        else:
            loss = loss.get("class_name")
    if not isinstance(loss, str):
        return None
    snake = snake_case(loss)
    return _ALIASES.get(snake, snake)


def snake_case(name: str) -> str:
    """``MeanSquaredError`` as ``mean_squared_error``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
