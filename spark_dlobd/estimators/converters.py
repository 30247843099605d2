"""Type converters of the Params that hold Keras objects, backends and targets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spark_dlobd.conversion import picklable, reject, reject_type, text
from spark_dlobd.errors import ConfigurationError, ModelError
from spark_dlobd.job.target import Target


@picklable
def keras_config(name: str) -> Callable[[Any], Any]:
    """A Keras name, a serialized config, or an object that becomes one."""
    expected = "a Keras name, a config dict, or a Keras object"

    def convert(value: Any) -> Any:
        if isinstance(value, str) and value:
            return value
        if isinstance(value, Mapping) or (
            not isinstance(value, (str, type)) and (hasattr(value, "get_config") or callable(value))
        ):
            return _serialized(name, value)
        raise (reject if value == "" else reject_type)(name, expected, value)

    return convert


@picklable
def keras_configs(name: str) -> Callable[[Any], list[Any]]:
    """A list of what `keras_config` takes."""
    convert_one = keras_config(name)

    def convert(value: Any) -> list[Any]:
        if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
            raise reject_type(name, "a list of Keras names, config dicts or Keras metrics", value)
        return [convert_one(item) for item in value]

    return convert


def backend_config(value: Any) -> Any:
    """A backend's name, or its config object as JSON-able data."""
    if isinstance(value, str):
        return text("backend")(value)
    from spark_dlobd.backends import registry

    return registry.to_param(value)


def target(value: Any) -> str:
    """A metric, a comparison and a number, as the one way to write them."""
    return str(Target.parse(value))


def checked_callbacks(value: Any) -> tuple[Any, ...]:
    """Keras callbacks as a tuple; they are live objects, so this is no Param."""
    if value is None or value == () or value == []:
        return ()
    import keras

    callbacks = tuple(value) if isinstance(value, Sequence) else (value,)
    is_callback = [isinstance(item, keras.callbacks.Callback) for item in callbacks]
    if not isinstance(value, Sequence) or not all(is_callback):
        raise reject_type("callbacks", "a sequence of keras.callbacks.Callback", value)
    return callbacks


def _serialized(name: str, value: Any) -> Any:
    import keras

    from spark_dlobd.training.compile_args import check_decay
    from spark_dlobd.training.custom_objects import LAMBDA_REFUSED, referenced_objects

    if getattr(value, "__name__", None) == "<lambda>":
        raise ModelError(LAMBDA_REFUSED)
    try:
        if isinstance(value, Mapping):
            return json.loads(json.dumps(dict(value)))
        if name == "optimizer":
            check_decay(value)
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(value)))
    except (TypeError, NotImplementedError) as error:
        raise ConfigurationError(
            f"{name} cannot be written as JSON: {error}. get_config() must return numbers, "
            "strings, lists and dicts."
        ) from error
    referenced_objects([config])
    return config
