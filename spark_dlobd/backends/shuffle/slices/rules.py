"""Where the parameters of a Keras optimizer may be cut.

Read off the ``update_step`` of every optimizer of Keras 3.15: most of them
compute each element from its own gradient and state, so that any cut leaves the
result as it is. Others need a norm or a product over a whole variable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spark_dlobd.backends.shuffle.slices.variables import VariableSpec
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.training.custom_objects import registered

_ELEMENTWISE = frozenset(
    {
        "Adadelta",
        "Adagrad",
        "Adam",
        "AdamW",
        "Adamax",
        "Ftrl",
        "Lion",
        "Nadam",
        "RMSprop",
        "SGD",
        "ScheduleFreeAdamW",
    }
)
_PER_VARIABLE = {
    "Adafactor": "factors the second moment of whole matrices",
    "Lamb": "scales by norms of whole variables",
    "Muon": "orthogonalizes whole matrices",
}
_REFUSED = {
    "LossScaleOptimizer": (
        "it skips a step when any gradient of the model is not finite, which no owner of a slice "
        "can see alone. Use the dtype policy mixed_bfloat16, which needs no loss scaling, a fixed "
        "loss_scale_factor on the inner optimizer with auto_scale_loss=False in compile()"
    ),
    "MultiOptimizer": (
        "it hands variables to several optimizers with learning rates of their own. Use one "
        "optimizer"
    ),
}
_SEES_ALL_GRADIENTS = (
    "apply",
    "apply_gradients",
    "_backend_apply_gradients",
    "_backend_update_step",
    "_clip_gradients",
)


@dataclass(frozen=True)
class CutRule:
    """Where parameters may be cut, and what owners of slices must tell each other.

    Parameters
    ----------
    whole_variables : bool
        Whether cuts must fall between variables: as exact, but slices are less
        even. Takes the argument of that name of `SlicePlan.of`.
    global_clipnorm : float or None
        If given, every update needs the sum of squares over all slices first:
        `SliceOptimizer.sum_of_squares`, then `clip_scale`.
    reason : str
        Why, for the log and the report.
    """

    whole_variables: bool
    global_clipnorm: float | None
    reason: str


def cut_rule(
    optimizer_config: Mapping[str, Any] | str,
    variables: Sequence[VariableSpec] = (),
    custom_objects: Mapping[str, Any] | None = None,
) -> CutRule:
    """Runs on the driver. Say where the parameters of an optimizer may be cut.

    Parameters
    ----------
    optimizer_config : mapping or str
        ``keras.saving.serialize_keras_object`` of the optimizer of the compiled
        model; ``compile`` wraps it in a LossScaleOptimizer under mixed_float16.
    variables : sequence of VariableSpec
        Of the model; constraints among them need whole variables.
    custom_objects : mapping, optional
        Registered name -> class or function.

    Raises
    ------
    ConfigurationError
        If the result could differ from that of the whole optimizer.

    Examples
    --------
    >>> cut_rule({"module": "keras.optimizers", "class_name": "Lion", "config": {}}).reason
    'Lion updates each element by itself'
    """
    config = _complete(optimizer_config, custom_objects)
    name = str(config["class_name"])
    is_keras = str(config.get("module") or "").split(".")[0] == "keras"
    if is_keras and name in _REFUSED:
        raise _refusal(name, _REFUSED[name])
    if not (is_keras and (name in _ELEMENTWISE or name in _PER_VARIABLE)):
        _check_separate(config, is_keras, custom_objects)
    settings = config["config"]
    whole = _need_of_whole_variables(name if is_keras else None, settings, variables)
    return CutRule(
        whole_variables=whole is not None,
        global_clipnorm=_positive(settings.get("global_clipnorm")),
        reason=f"{name} {whole or 'updates each element by itself'}",
    )


def _need_of_whole_variables(
    keras_name: str | None, settings: Mapping[str, Any], variables: Sequence[VariableSpec]
) -> str | None:
    if keras_name in _PER_VARIABLE:
        return _PER_VARIABLE[keras_name]
    if keras_name not in _ELEMENTWISE:
        return "is not known to update each element by itself"
    if _positive(settings.get("clipnorm")) is not None:
        return "clips by norms of whole variables (clipnorm)"
    constrained = [v.path for v in variables if v.constraint is not None]
    if constrained:
        return f"is followed by a constraint on the whole variable {constrained[0]}"
    return None


def _positive(value: Any) -> float | None:
    """Keras takes a clipping norm of 0 or below for none."""
    return float(value) if value and value > 0 else None


def _complete(
    config: Mapping[str, Any] | str, custom_objects: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    if not isinstance(config, str):
        return config
    import keras

    with registered(custom_objects):
        complete: dict[str, Any] = keras.saving.serialize_keras_object(keras.optimizers.get(config))
    return complete


def _check_separate(
    config: Mapping[str, Any], is_keras: bool, custom_objects: Mapping[str, Any] | None
) -> None:
    """Refuse an optimizer that may compute from the gradients of several variables."""
    import keras

    name = config["class_name"]
    with registered(custom_objects):
        kind = (
            getattr(keras.optimizers, name, None)
            if is_keras
            else keras.saving.get_registered_object(config.get("registered_name") or name)
        )
    if not isinstance(kind, type) or not issubclass(kind, keras.optimizers.Optimizer):
        raise ConfigurationError(
            f"The optimizer {name!r} is not known here. Register its class with "
            "@keras.saving.register_keras_serializable() before the fit."
        )
    changed = [
        method
        for method in _SEES_ALL_GRADIENTS
        if getattr(kind, method, None) is not getattr(keras.optimizers.Optimizer, method, None)
    ]
    if changed:
        raise _refusal(
            name,
            f"it overrides {', '.join(changed)}, so an update may depend on the gradients of all "
            "variables. Override update_step() alone",
        )


def _refusal(name: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The parameters of {name} cannot be cut into slices: {why}, or train with "
        "backend='horovod' or backend='local', which keep the optimizer whole."
    )
