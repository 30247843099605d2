"""Type converters of the Params that hold Keras objects, backends and targets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spark_dlobd.conversion import by_name, names, picklable, reject, reject_type, text
from spark_dlobd.errors import ConfigurationError, ModelError
from spark_dlobd.job.input_columns import InputColumn, input_column
from spark_dlobd.job.target import Target


@picklable
def keras_config(name: str, several: bool = False) -> Callable[[Any], Any]:
    """A Keras name, a serialized config, or an object that becomes one.

    With `several` also a dict of these by output, or a list in the order of outputs.
    """
    by_output = ", a dict of these by output" if several else ""
    expected = f"a Keras name, a config dict, or a Keras object{by_output}"

    def convert(value: Any) -> Any:
        if isinstance(value, str) and value:
            return value
        if several and _is_by_output(value):
            return {str(output): None if v is None else convert(v) for output, v in value.items()}
        if several and isinstance(value, (list, tuple)):
            return [None if item is None else convert(item) for item in value]
        if isinstance(value, Mapping) or (
            not isinstance(value, (str, type)) and (hasattr(value, "get_config") or callable(value))
        ):
            return _serialized(name, value)
        raise (reject if value == "" else reject_type)(name, expected, value)

    return convert


@picklable
def keras_configs(name: str) -> Callable[[Any], Any]:
    """A list of what `keras_config` takes, or such lists by output."""
    convert_one = keras_config(name)
    expected = "a list of Keras names, config dicts or Keras metrics, or a dict of these by output"

    def convert(value: Any) -> Any:
        if _is_by_output(value):
            return {str(output): _of_output(v) for output, v in value.items()}
        if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
            raise reject_type(name, expected, value)
        return [_of_output(v) if isinstance(v, (list, tuple)) else convert_one(v) for v in value]

    def _of_output(value: Any) -> Any:
        if value is None:
            return []
        return [convert_one(v) for v in (value if isinstance(value, (list, tuple)) else [value])]

    return convert


def _is_by_output(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_name" not in value and "module" not in value


def input_columns(value: Any) -> dict[str, Any]:
    """Inputs of a network -> a column, or a list of columns side by side."""
    listed, one = names("inputs"), text("inputs")

    def columns(given: Any) -> Any:
        if isinstance(given, InputColumn):
            return given.to_param()
        if isinstance(given, Mapping):
            return input_column(given).to_param()
        return one(given) if isinstance(given, str) else listed(given)

    return by_name("inputs", "inputs of the network to columns or lists of columns", columns)(value)


def output_columns(value: Any) -> dict[str, str]:
    """Columns under the names they would have -> other names, empty to leave one out."""

    def name(given: Any) -> str:
        if not isinstance(given, str):
            raise reject_type("outputCols", "a dict of columns to names", value)
        return given

    return by_name("outputCols", "columns to names", name)(value)


def weight_columns(value: Any) -> Any:
    """A column, or outputs of a network -> columns."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return by_name("weightCol", "outputs to columns", text("weightCol"))(value)
    raise reject_type("weightCol", "a str, or a dict of outputs to columns", value)


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
