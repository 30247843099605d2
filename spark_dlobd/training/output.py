"""What the output of a Keras model means, read off the model and its loss."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast, get_args

from spark_dlobd.errors import ConfigurationError, ModelError
from spark_dlobd.job.network import OutputSpec, ProblemType
from spark_dlobd.training.signature import Signature, Tensor, outputs_of
from spark_dlobd.users_line import users_stacklevel

_MULTICLASS = frozenset(
    {
        "sparse_categorical_crossentropy",
        "categorical_crossentropy",
        "categorical_focal_crossentropy",
    }
)
_BINARY = frozenset({"binary_crossentropy", "binary_focal_crossentropy"})
Override = Literal["auto", "classification", "multilabel", "regression"]
_ALIASES = {"bce": "binary_crossentropy"}
_PROBABILITY_ACTIVATIONS = frozenset({"softmax", "sigmoid"})


def output_specs(
    model: Any,
    compile_config: Mapping[str, Any],
    problem_override: Override | None = None,
) -> tuple[OutputSpec, ...]:
    """Runs on the driver. How predictions follow from each of the model's outputs.

    The categorical crossentropies make a multiclass problem, the binary ones over
    a single unit a binary one and over several a multi-label one, and everything else is
    regression: hinge losses too, because their output is a margin, unless
    `problem_override` asks for a classification (the margins then count as logits). So is
    an output without a loss. A multiclass output of more axes than ``(batch, classes)`` has
    the classes of each position in the last one.

    Parameters
    ----------
    model : keras.Model
        The model.
    compile_config : mapping
        What `compile_config` returned.
    problem_override : {"auto", "classification", "multilabel", "regression"}, optional
        Overrules the loss, of every output.

    Raises
    ------
    ModelError
        If an output of several axes cannot mean what the loss says.
    """
    outputs = outputs_of(model)
    losses = losses_of(compile_config, outputs)
    several = len(outputs.tensors) > 1
    found = []
    for place, tensor in enumerate(outputs.tensors):
        loss = losses[tensor.name]
        spec = _output_spec(model, place, tensor, loss, problem_override or "auto")
        found.append(replace(spec, name=tensor.name) if several else spec)
    return tuple(found)


def losses_of(compile_config: Mapping[str, Any], outputs: Signature) -> dict[str, Any]:
    """Serialized loss of each output by its name; None where it has none."""
    loss = compile_config.get("loss")
    names = [tensor.name for tensor in outputs.tensors]
    if len(names) == 1:
        return {names[0]: _single(loss)}
    if isinstance(loss, dict) and "class_name" not in loss:
        return {name: loss.get(name) for name in names}
    if isinstance(loss, (list, tuple)):
        return dict(zip(names, loss, strict=True))
    return dict.fromkeys(names, loss)


def _output_spec(model: Any, place: int, tensor: Tensor, loss: Any, override: str) -> OutputSpec:
    shape = tensor.shape
    units = math.prod(shape)
    name = loss_name(loss)
    problem = _problem(name, shape, override)
    axes = shape if len(shape) > 1 else ()
    if problem == "regression":
        return OutputSpec("regression", units, shape=axes)
    if axes and problem != "multiclass":
        raise ModelError(
            f"The output of a {problem} classifier must have shape (batch, units). Model "
            f"{model.name!r} gives (batch, {', '.join(map(str, shape))}): flatten it, or set "
            "problemType='regression'."
        )
    classes = shape[-1] if shape else 1
    if problem == "multiclass" and classes < 2:
        raise ModelError(
            f"Loss {name!r} needs one output unit per class; model {model.name!r} has {classes}. "
            "Use binary_crossentropy for one unit, or add units to the last layer."
        )
    return OutputSpec(problem, units, _from_logits(model, place, loss, name), shape=axes)


def _problem(name: str | None, shape: tuple[int, ...], override: str) -> ProblemType:
    if override not in get_args(Override):
        listed = ", ".join(map(repr, get_args(Override)))
        raise ConfigurationError(f"problemType must be one of {listed}. Got {override!r}.")
    if override in ("regression", "multilabel"):
        return cast(ProblemType, override)
    units = math.prod(shape)
    if name in _BINARY and (units == 1 or len(shape) == 1):
        return "binary" if units == 1 else "multilabel"
    if override == "classification":
        return "binary" if units == 1 else "multiclass"
    return "multiclass" if name in _MULTICLASS else "regression"


def _from_logits(model: Any, place: int, loss: Any, name: str | None) -> bool:
    """Whether the output still needs softmax or sigmoid; warns of a contradiction."""
    activation = _last_activation(model, place)
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


def _last_activation(model: Any, place: int) -> str | None:
    """Name of the activation of a Keras layer that ends the model, if it is known."""
    import keras

    outputs = getattr(model, "outputs", None)
    if not outputs:
        return None
    layer = outputs[place]._keras_history.operation
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    layers = keras.layers
    with_activation = (layers.Dense, layers.Activation, layers.Conv1D, layers.Conv2D, layers.Conv3D)
    if not isinstance(layer, with_activation):
        return None
    return getattr(layer.activation, "__name__", None)


def _single(value: Any) -> Any:
    """The one loss of a list or a dict of one output."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return value[0]
    if isinstance(value, dict) and "class_name" not in value and len(value) == 1:
        return next(iter(value.values()))
    return value


def reductions(compile_config: Mapping[str, Any]) -> list[str]:
    """How each loss that says so makes one number of many."""
    loss = compile_config.get("loss")
    several = loss if isinstance(loss, (list, tuple)) else [loss]
    if isinstance(loss, dict) and "class_name" not in loss:
        several = list(loss.values())
    configs = [one.get("config") for one in several if isinstance(one, dict)]
    found = [config.get("reduction") for config in configs if isinstance(config, dict)]
    return [str(reduction) for reduction in found if reduction is not None]


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
