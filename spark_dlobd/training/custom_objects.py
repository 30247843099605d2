"""Registered custom classes and functions on their way to the executors."""

from __future__ import annotations

import contextlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from spark_dlobd.errors import ModelError

_KERAS_ENUMERATIONS = (
    "activations",
    "losses",
    "metrics",
    "initializers",
    "regularizers",
    "constraints",
    "optimizers",
)

LAMBDA_REFUSED = (
    "The model or its compile arguments hold Python code (a lambda), which is refused because "
    "loading it would run code from a file. Replace the lambda by a function or class decorated "
    "with @keras.saving.register_keras_serializable()."
)


class CustomObjects(dict[str, Any]):
    """Registered name -> class or function; pickles the code, not a reference to it.

    Executors often cannot import the module or notebook that defines a custom
    layer, so what is not installed as a package travels by value.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        if not self:
            return CustomObjects, ()
        return _from_pickle, (_to_pickle(dict(self)),)


def referenced_objects(configs: Iterable[Any]) -> CustomObjects:
    """Runs on the driver. Custom objects that serialized Keras configs refer to.

    Parameters
    ----------
    configs : iterable
        What ``keras.saving.serialize_keras_object`` returns.

    Raises
    ------
    ModelError
        If a config refers to a custom object that is not registered, or holds a lambda.
    """
    import keras

    registry = keras.saving.get_custom_objects()
    names = sorted({name for config in configs for name in _custom_names(config)})
    missing = [name for name in names if name not in registry]
    if missing:
        listed = ", ".join(repr(name) for name in missing)
        raise ModelError(
            f"The model or its compile arguments use custom objects that are not registered "
            f"with Keras: {listed}. Workers rebuild the model from its config, so decorate "
            "each of them with @keras.saving.register_keras_serializable() before creating "
            "the model."
        )
    return CustomObjects((name, registry[name]) for name in names)


@contextlib.contextmanager
def registered(custom_objects: Mapping[str, Any] | None) -> Iterator[None]:
    """Runs on each worker. Register `custom_objects` with Keras under their names.

    A name that was taken by another object gets it back at the end; a name that
    was free stays registered, so that a rebuilt model can be saved again.
    """
    import keras

    registry = keras.saving.get_custom_objects()
    replaced: dict[str, Any] = {}
    for name, value in (custom_objects or {}).items():
        if registry.get(name) is value:
            continue
        if name in registry:
            replaced[name] = registry[name]
        package, _, short = name.rpartition(">")
        if package:
            keras.saving.register_keras_serializable(package, short)(value)
        else:
            registry[name] = value
    try:
        yield
    finally:
        registry.update(replaced)


def _custom_names(config: Any) -> Iterator[str]:
    if isinstance(config, (list, tuple)):
        for item in config:
            yield from _custom_names(item)
    if isinstance(config, str) and ">" in config:
        import keras

        if config in keras.saving.get_custom_objects():
            yield config
    if not isinstance(config, dict):
        return
    if "class_name" in config and "config" in config:
        if config["class_name"] == "__lambda__":
            raise ModelError(LAMBDA_REFUSED)
        name = _custom_name(config)
        if name is not None:
            yield name
    for key, value in config.items():
        if key not in ("class_name", "registered_name", "module"):
            yield from _custom_names(value)


def _custom_name(config: dict[str, Any]) -> str | None:
    """Name under which a serialized object must be registered; None if it is Keras's own."""
    module = config.get("module") or ""
    if module == "keras" or module.startswith("keras."):
        return None
    if config["class_name"] == "function":
        name = config["config"]
        return name if isinstance(name, str) and not _is_keras_function(name) else None
    name = config.get("registered_name")
    return name if isinstance(name, str) else None


def _is_keras_function(name: str) -> bool:
    import keras

    return any(hasattr(getattr(keras, part), name) for part in _KERAS_ENUMERATIONS)


def _to_pickle(objects: dict[str, Any]) -> bytes:
    from pyspark import cloudpickle

    modules = {_module_of(value) for value in objects.values()}
    by_value = [module for module in modules if module is not None and not _is_installed(module)]
    new = [m for m in by_value if m.__name__ not in cloudpickle.list_registry_pickle_by_value()]
    for module in new:
        cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(objects))
    finally:
        for module in new:
            cloudpickle.unregister_pickle_by_value(module)


def _from_pickle(data: bytes) -> CustomObjects:
    """Runs on each worker."""
    from pyspark import cloudpickle

    return CustomObjects(cloudpickle.loads(data))


def _module_of(value: Any) -> ModuleType | None:
    name = getattr(value, "__module__", None)
    return None if name in (None, "__main__") else sys.modules.get(str(name))


def _is_installed(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if file is None:
        return True
    roots = {sysconfig.get_path(key) for key in ("purelib", "platlib", "stdlib", "platstdlib")}
    path = Path(file).resolve()
    return any(path.is_relative_to(Path(root).resolve()) for root in roots if root)
