"""Keras models as bytes, and what can be read off them.

Keras is imported inside the functions: importing this module costs nothing.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_dlobd.errors import ModelError, ModelTypeError
from spark_dlobd.processes.python_worker import local_folder
from spark_dlobd.processes.tensorflow_import import import_keras
from spark_dlobd.training.archive import check_archive
from spark_dlobd.training.compile_args import compile_config, compile_model, own_compile_config
from spark_dlobd.training.custom_objects import (
    LAMBDA_REFUSED,
    CustomObjects,
    referenced_objects,
    registered,
)
from spark_dlobd.training.output import output_specs
from spark_dlobd.training.signature import inputs_of

if TYPE_CHECKING:
    from spark_dlobd.job.columns import ColumnSpec
    from spark_dlobd.job.network import Network

__all__ = [
    "CustomObjects",
    "archive_to_model",
    "check_model",
    "compile_config",
    "compile_model",
    "custom_objects_of",
    "model_to_archive",
    "network_to_model",
    "output_specs",
    "own_compile_config",
    "weights_and_bytes",
    "weights_hash",
]


def check_model(model: Any) -> None:
    """Runs on the driver. Raise `ModelError` unless workers can rebuild `model`."""
    import keras

    _check_keras_backend()
    if not isinstance(model, keras.Model):
        kind = type(model)
        raise ModelTypeError(
            f"model must be a keras.Model of Keras {keras.__version__}. Got {model!r:.80} of type "
            f"{kind.__module__}.{kind.__qualname__}.{_model_hint(model)}"
        )
    unbuilt = [layer.name for layer in (model, *model.layers) if not layer.built]
    if unbuilt:
        raise ModelError(
            f"Model {model.name!r} is not built: {', '.join(unbuilt)} has no weights yet. Start it "
            "with keras.Input(shape=...), or call it once on a batch of data before passing it."
        )
    inputs_of(model)


def _model_hint(value: Any) -> str:
    if isinstance(value, (str, Path)):
        return f" Load it first: keras.models.load_model({str(value)!r})."
    if hasattr(value, "getKerasModel"):
        return " Take the network out of it: getKerasModel()."
    if isinstance(value, type) or inspect.isroutine(value):
        return f" Call it first: {value.__name__}()."
    return ""


def model_to_archive(model: Any) -> bytes:
    """Architecture and weights of a model as the bytes of a ``.keras`` file.

    Parameters
    ----------
    model : keras.Model
        A built model. Optimizer state is left out.

    Raises
    ------
    ModelError
        If the model cannot be rebuilt from its file.
    """
    check_model(model)
    import keras

    referenced_objects([_config_of(model)])
    archive = _saved(model)
    frozen = _frozen(model)
    if not model.compiled and not any(frozen):
        return archive
    with keras.device("cpu"):
        rebuilt = archive_to_model(archive)
        # of tables that are cut over servers the model has the parts, the file has the whole;
        # the network that they are of was checked when it was given
        if len(frozen) == len(rebuilt.weights):
            _check_frozen(model, frozen, _frozen(rebuilt))
        return _saved(rebuilt) if model.compiled else archive


def _frozen(model: Any) -> list[bool]:
    """Of each weight that layers would train, whether it is kept from it."""
    trained = {id(variable) for variable in model.trainable_weights}
    return [id(variable) not in trained for variable in model.weights]


def _check_frozen(model: Any, wanted: list[bool], found: list[bool]) -> None:
    """Refuse a model whose file does not say which of its weights are trained."""
    names = [
        v.path for v, one, other in zip(model.weights, wanted, found, strict=True) if one != other
    ]
    if names:
        raise ModelError(
            f"Workers would train other weights of model {model.name!r} than it does itself, "
            f"because its file does not say that they are frozen: {', '.join(names[:5])}"
            f"{' and others' if len(names) > 5 else ''}. Keras writes trainable=False of layers of "
            "a functional or Sequential model; of a class of your own set it in __init__, from an "
            "argument that get_config returns."
        )


def archive_to_model(
    archive: bytes,
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = False,
) -> Any:
    """Rebuild a model from the bytes of a ``.keras`` file, in Keras's safe mode.

    Parameters
    ----------
    archive : bytes
        From `model_to_archive`.
    custom_objects : mapping, optional
        Registered name -> class or function.
    compile : bool, default False
        Whether to compile with what the file says.

    Raises
    ------
    ModelError
        If the file is damaged or unpacks to more than `archive.unpacked_limit`, holds Python
        code, or names unknown custom objects.
    """
    _check_keras_backend()
    import keras

    try:
        check_archive(archive)
    except ModelError as error:
        raise ModelError(f"The model cannot be rebuilt from its file. {error}") from error

    # Spark may kill this process at any time, and then removes what is in that folder
    folder = local_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="spark-dlobd-", dir=folder) as directory:
        path = Path(directory, "model.keras")
        path.write_bytes(archive)
        try:
            with registered(custom_objects):
                model = keras.saving.load_model(path, compile=compile, safe_mode=True)
        except Exception as error:
            raise ModelError(_explain(error)) from error
    _freeze_containers(model)
    return model


def _freeze_containers(model: Any) -> None:
    """Say of a Sequential inside a network that it is frozen where its layers are.

    Its file says it of its layers alone. To train it again its own ``trainable`` has to
    change: assigning what it is already does nothing.
    """
    import keras

    for container in model.layers:
        if isinstance(container, keras.Model):
            _freeze_containers(container)
            with_weights = [layer for layer in container.layers if layer.weights]
            if with_weights and not any(layer.trainable for layer in with_weights):
                container.trainable = False


def network_to_model(network: Network) -> Any:
    """Rebuild a network, compiled as it says.

    Raises
    ------
    ModelError
        As `archive_to_model`.
    """
    model = archive_to_model(network.archive, network.custom_objects)
    if network.compile_config:
        compile_model(model, network.compile_config, network.custom_objects)
    return model


def custom_objects_of(model: Any, compile_config: Mapping[str, Any] | None = None) -> CustomObjects:
    """Runs on the driver. Registered objects a worker needs to rebuild `model`.

    Parameters
    ----------
    model : keras.Model
        The model.
    compile_config : mapping, optional
        What `compile_config` returned.

    Returns
    -------
    CustomObjects
        A dict of registered name -> class or function that pickles code by value.

    Raises
    ------
    ModelError
        If an object that is not Keras's own is not registered.
    """
    return referenced_objects([_config_of(model), dict(compile_config or {})])


def weights_hash(model: Any) -> str:
    """SHA-256 over shape, dtype and values of ``model.weights``, in that order."""
    import numpy as np

    digest = hashlib.sha256()
    for value in model.get_weights():
        array = np.ascontiguousarray(value)
        digest.update(f"{array.dtype.name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def weights_and_bytes(model: Any) -> tuple[int, int]:
    """Number of trainable weights, and bytes of their gradients."""
    import tensorflow as tf

    sizes = [(math.prod(v.shape), tf.as_dtype(v.dtype).size) for v in model.trainable_variables]
    return sum(count for count, _ in sizes), sum(count * each for count, each in sizes)


def _check_keras_backend() -> None:
    keras = import_keras()
    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"Keras runs on the {keras.backend.backend()!r} backend; 'tensorflow' is needed. Set "
            "the environment variable KERAS_BACKEND=tensorflow before keras is imported."
        )


def _config_of(model: Any) -> Any:
    import keras

    try:
        config = keras.saving.serialize_keras_object(model)
    except NotImplementedError as error:
        raise ModelError(
            f"{type(model).__name__} cannot be written as a config: {error} Define get_config() "
            "and decorate the class with @keras.saving.register_keras_serializable()."
        ) from error
    return {key: value for key, value in config.items() if key != "compile_config"}


def _saved(model: Any) -> bytes:
    with tempfile.TemporaryDirectory(prefix="spark-dlobd-") as directory:
        path = Path(directory, "model.keras")
        model.save(path)
        return path.read_bytes()


def _explain(error: Exception) -> str:
    text = str(error).rstrip()
    reason = text.rsplit("Exception encountered:", 1)[-1].split("Full object config:")[0].strip()
    if "lambda" in text.lower() and "arbitrary code execution" in text:
        return LAMBDA_REFUSED
    if "Could not locate" in text:
        return (
            f"The model cannot be rebuilt: {reason} Import the module that registers it before "
            "loading."
        )
    return f"The model cannot be rebuilt from its file: {type(error).__name__}: {reason}"


def metric_names(model: Any, columns: ColumnSpec) -> list[str] | None:
    """Names in the logs of a compiled model; None if its own step may log anything."""
    import keras

    steps = ("train_step", "test_step", "compute_metrics")
    if any(getattr(type(model), name) is not getattr(keras.Model, name) for name in steps):
        return None
    built_metrics(model, columns)
    return list(model.get_metrics_result())


def built_metrics(model: Any, columns: ColumnSpec) -> list[Any]:
    """Metrics of a compiled model, with those given to ``compile`` made for these columns."""
    model._symbolic_build(data_batch=symbolic_batch(columns, rows=2))
    return list(model.metrics)


def symbolic_batch(columns: ColumnSpec, rows: int | None = None) -> tuple[Any, ...]:
    """Keras tensors of a batch of these columns, as a training step takes them."""
    import keras

    types = [column.network_dtype for column in columns.all]
    pairs = zip(columns.all, types, strict=True)
    return columns.packed([keras.KerasTensor((rows, *one.shape), dtype) for one, dtype in pairs])
