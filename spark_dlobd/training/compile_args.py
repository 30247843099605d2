"""The arguments of `keras.Model.compile` as JSON-able data, and back."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from spark_dlobd.errors import ConfigurationError, ModelError
from spark_dlobd.training.custom_objects import registered
from spark_dlobd.training.output import snake_case
from spark_dlobd.training.output_losses import weigh_by_rows
from spark_dlobd.training.signature import Signature, outputs_of

_METRIC_SHORTCUTS = ("accuracy", "acc", "crossentropy", "ce")


def compile_config(
    model: Any,
    loss: Any = None,
    optimizer: Any = None,
    metrics: Any = None,
    learning_rate: float | None = None,
    loss_weights: Any = None,
) -> dict[str, Any]:
    """Runs on the driver. Resolve what the model is compiled with.

    Starts from the model's own ``compile`` and lets the given arguments override
    it, so ``steps_per_execution``, ``jit_compile``, ``weighted_metrics`` and the
    like are kept.

    Parameters
    ----------
    model : keras.Model
        Compiled or not.
    loss, optimizer : str, dict, Keras object or None
        Name, serialized config or instance. The optimizer of an uncompiled
        model defaults to ``"adam"``.
    metrics : list or None
        Names, serialized configs or instances; replaces the model's metrics.
    learning_rate : float or None
        Replaces the optimizer's learning rate, also a schedule.
    loss_weights : dict of str to float, list of float or None
        Factor of each output's loss in the sum; replaces the model's.

    Returns
    -------
    dict
        JSON-able; `compile_model` takes it.

    Raises
    ------
    ConfigurationError
        If there is no loss, or a name is not known to Keras.
    ModelError
        If the model's class overrides ``compile`` in a way that cannot be repeated.
    """
    import keras

    _check_repeatable(model)
    config: dict[str, Any] = dict(model.get_compile_config() or {})
    if config and getattr(model, "optimizer", None) is not None and "optimizer" in config:
        # The instance knows a learning rate that was assigned after compile().
        config["optimizer"] = model.optimizer
    if optimizer is not None or "optimizer" not in config:
        config["optimizer"] = _scaled("adam" if optimizer is None else optimizer, model)
    if loss is not None:
        config["loss"] = loss
    if metrics is not None:
        config["metrics"] = list(metrics) if isinstance(metrics, (list, tuple)) else metrics
    if config.get("loss") is None and not _computes_own_loss(model):
        raise ConfigurationError(
            "loss must be given because the model was not compiled with one. Pass "
            "loss='sparse_categorical_crossentropy' (or another Keras loss), or call "
            "model.compile(loss=...) first."
        )
    if loss_weights is not None:
        config["loss_weights"] = loss_weights
    config |= by_output(config, outputs_of(model))
    _complete_configs(config)
    _check_names(config)
    config["optimizer"] = _optimizer_config(config["optimizer"], learning_rate)
    return _as_json({key: keras.saving.serialize_keras_object(v) for key, v in config.items()})


def _scaled(optimizer: Any, model: Any) -> Any:
    """The optimizer with a loss scale around it, where layers compute in float16.

    Keras goes by the policy of the model. One that is rebuilt has that of the process, which
    is another one on a worker.
    """
    import keras

    if not _computes_in_float16(model):
        return optimizer
    optimizer = keras.optimizers.get(optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)


def _computes_in_float16(model: Any) -> bool:
    import keras

    # these have the policy of the process
    others = (keras.Model, keras.layers.InputLayer)
    layers = model._flatten_layers(include_self=False)
    policies = [layer.dtype_policy for layer in layers if not isinstance(layer, others)]
    return any(getattr(policy, "name", "") == "mixed_float16" for policy in policies)


def own_compile_config(model: Any) -> dict[str, Any]:
    """Runs on the driver. What the model itself was compiled with; empty if it was not.

    Raises
    ------
    ModelError
        If the model's class overrides ``compile`` in a way that cannot be repeated.
    """
    import keras

    if not model.compiled:
        return {}
    _check_repeatable(model)
    config = dict(model.get_compile_config() or {})
    if config.get("optimizer") is not None:
        check_decay(model.optimizer)
        config["optimizer"] = model.optimizer
    return _as_json({key: keras.saving.serialize_keras_object(v) for key, v in config.items()})


def compile_model(
    model: Any, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
) -> None:
    """Runs on each worker. Compile `model` with what `compile_config` returned.

    Parameters
    ----------
    model : keras.Model
        Compiled in place; the optimizer starts without state.
    config : mapping
        From `compile_config`.
    custom_objects : mapping, optional
        Registered name -> class or function.
    """
    given = json.loads(json.dumps(dict(config)))
    if "auto_scale_loss" in inspect.signature(model.compile).parameters:
        given["auto_scale_loss"] = False  # which is decided, for every process alike
    with registered(custom_objects):
        model.compile_from_config(given)
    weigh_by_rows(model)


def check_decay(optimizer: Any) -> None:
    """Refuse exclusions from weight decay that workers would not know of.

    Keras writes them into no config. An optimizer class that excludes variables in its
    own ``__init__`` does so on every worker again.

    Raises
    ------
    ConfigurationError
        If ``exclude_from_weight_decay`` was called on an optimizer that decays weights.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not getattr(optimizer, "weight_decay", None) or not hasattr(optimizer, "get_config"):
        return
    copied = type(optimizer).from_config(optimizer.get_config())
    if _exclusions(optimizer) != _exclusions(copied):
        name = type(optimizer).__name__
        raise ConfigurationError(
            f"exclude_from_weight_decay() was called on {name}, but Keras does not write that into "
            "its config, so workers would decay all weights. Call it in __init__ of a subclass of "
            f"{name} that is decorated with @keras.saving.register_keras_serializable(), as in "
            "self.exclude_from_weight_decay(var_names=['bias'])."
        )


def _exclusions(optimizer: Any) -> tuple[Any, str | None]:
    variables = getattr(optimizer, "_exclude_from_weight_decay", None) or set()
    names = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    return variables, names and names.pattern


def _check_repeatable(model: Any) -> None:
    import keras

    kind = type(model)
    if kind.compile is not keras.Model.compile and (
        kind.compile_from_config is keras.Model.compile_from_config
    ):
        raise ModelError(
            f"{kind.__name__} overrides compile() but not compile_from_config(), so a worker "
            "cannot repeat it. Override get_compile_config() and compile_from_config(config) "
            "as well, or move the extra arguments to __init__."
        )


def _computes_own_loss(model: Any) -> bool:
    import keras

    kind = type(model)
    return (
        kind.compute_loss is not keras.Model.compute_loss
        or kind.train_step is not keras.Model.train_step
    )


def _getters() -> dict[str, Any]:
    import keras

    return {
        "loss": keras.losses.get,
        "optimizer": keras.optimizers.get,
        "metrics": keras.metrics.get,
        "weighted_metrics": keras.metrics.get,
    }


def by_output(config: Mapping[str, Any], outputs: Signature) -> dict[str, Any]:
    """Arguments of ``compile`` of a network with several outputs, all in one form.

    Losses, their weights and metrics become dicts with every output, None where it has none:
    of all the forms that Keras takes this is the one that it reads alike whatever structure
    the outputs have.

    Raises
    ------
    ConfigurationError
        An argument names an output that is not there, or a list has another length.
    """
    names = [tensor.name for tensor in outputs.tensors]
    if len(names) == 1:
        return {}
    loss = config.get("loss")
    if loss is not None and not _is_collection(loss):
        loss = dict.fromkeys(names, loss)
    found: dict[str, Any] = {"loss": None if loss is None else _named("loss", loss, names)}
    for argument in ("metrics", "weighted_metrics", "loss_weights"):
        value = config.get(argument)
        found[argument] = None if value is None else _named(argument, value, names)
    if found["loss_weights"] is not None:
        weights = found["loss_weights"]
        found["loss_weights"] = {n: 1.0 if w is None else float(w) for n, w in weights.items()}
    if outputs.structure.kind == "list" and names[0] == "output_1":
        # a subclassed model has no names that Keras knows
        return {k: v and list(v.values()) for k, v in found.items()}
    return found


def _is_collection(value: Any) -> bool:
    is_config = isinstance(value, Mapping) and "class_name" in value
    return isinstance(value, (Mapping, list, tuple)) and not is_config


def _named(argument: str, value: Any, names: list[str]) -> dict[str, Any]:
    """Value for each output."""
    listed = ", ".join(map(repr, names))
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in names]
        if unknown:
            raise ConfigurationError(
                f"{argument} must name outputs of the network: {listed}. Got "
                f"{', '.join(map(repr, unknown))}."
            )
        return {name: value.get(name) for name in names}
    if not isinstance(value, (list, tuple)) or len(value) != len(names):
        raise ConfigurationError(
            f"{argument} of a network with several outputs must be a dict with the names "
            f"{listed}, or a list of as many elements. Got {value!r}."
        )
    return dict(zip(names, value, strict=True))


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same collection with every loss, metric or optimizer in it changed."""
    if isinstance(value, (list, tuple)):
        return [_each(item, change) for item in value]
    if isinstance(value, Mapping) and "class_name" not in value:
        return {name: _each(item, change) for name, item in value.items()}
    return change(value)


def _complete_configs(config: dict[str, Any]) -> None:
    """Replace ``{"class_name": "SGD", "config": {...}}``, which lacks its module, by the object."""

    def complete(argument: str, value: Any) -> Any:
        if not isinstance(value, Mapping) or "module" in value:
            return value
        try:
            return _getters()[argument](dict(value))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"{argument} must be a config that Keras can make an object of. "
                f"Got {dict(value)!r}: {str(error).splitlines()[0]}"
            ) from error

    for argument in _getters():
        change = functools.partial(complete, argument)
        config[argument] = _each(config.get(argument), change)


def _check_names(config: dict[str, Any]) -> None:
    def check(argument: str, name: Any) -> None:
        if isinstance(name, str):
            _check_name(argument, name)

    for argument in _getters():
        _each(config.get(argument), functools.partial(check, argument))


def _check_name(argument: str, name: str) -> None:
    try:
        _get_by_name(argument, name)
    except ValueError as error:
        raise ConfigurationError(
            f"{argument} must name something Keras knows or that is registered with "
            f"@keras.saving.register_keras_serializable(). Got {name!r}."
            f"{_nearest(argument, name)}"
        ) from error
    except (TypeError, KeyError) as error:
        raise ConfigurationError(
            f"{argument} must be an object where Keras cannot make one of the name alone. Got "
            f"{name!r}: {error}."
        ) from error


def _get_by_name(argument: str, name: str) -> None:
    import keras

    shortcuts = _METRIC_SHORTCUTS if argument.endswith("metrics") else ()
    if name not in shortcuts and name not in keras.saving.get_custom_objects():
        _getters()[argument](name)


def _nearest(argument: str, name: str) -> str:
    """What is known under a name much like the one given."""
    import keras

    module, kind = {
        "loss": (keras.losses, keras.losses.Loss),
        "optimizer": (keras.optimizers, keras.optimizers.Optimizer),
    }.get(argument, (keras.metrics, keras.metrics.Metric))
    forms = {each: each for each in (_METRIC_SHORTCUTS if kind is keras.metrics.Metric else ())}
    for each in filter(lambda each: each[0].isalpha(), dir(module)):
        # Keras takes a class also by its name in small letters, with underscores or without
        forms |= {form: form for form in (each, each.lower(), snake_case(each))}
    for key, value in keras.saving.get_custom_objects().items():
        if not isinstance(value, type) or issubclass(value, kind):
            short = key.rpartition(">")[2]
            forms |= {short: key, snake_case(short): key}
    for form in difflib.get_close_matches(name, forms, 5):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            _get_by_name(argument, forms[form])
            return f" Did you mean {forms[form]!r}?"
    return ""


def _optimizer_config(optimizer: Any, learning_rate: float | None) -> Any:
    import keras

    if isinstance(optimizer, str) and optimizer not in keras.saving.get_custom_objects():
        optimizer = keras.optimizers.get(optimizer)
    check_decay(optimizer)
    config = keras.saving.serialize_keras_object(optimizer)
    if learning_rate is None:
        return config
    if not isinstance(config, dict):
        raise ConfigurationError(
            f"learningRate cannot be applied to the optimizer {optimizer!r}. Pass an optimizer "
            "instance or its config."
        )
    _set_learning_rate(config, learning_rate)
    return config


def _set_learning_rate(config: dict[str, Any], learning_rate: float) -> None:
    inner = config["config"].get("inner_optimizer")
    if isinstance(inner, dict):
        _set_learning_rate(inner, learning_rate)
    else:
        config["config"]["learning_rate"] = learning_rate


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(json.dumps(config))
    except TypeError as error:
        raise ConfigurationError(
            f"The compile arguments cannot be written as JSON: {error}. get_config() of custom "
            "losses, metrics and optimizers must return numbers, strings, lists and dicts."
        ) from error
    return result
