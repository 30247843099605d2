"""A Keras model in MLflow's Keras flavour, without MLflow's inspection of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spark_dlobd.processes.versions import requirements

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature


def save_keras_model(model: Any, path: str, run_id: str, logged: LoggedModel) -> None:
    """Write `model` to `path` as the artifacts of `logged`. Runs on the driver.

    Requirements are given, so MLflow does not load the model in a second process to
    find out what it imports.
    """
    import mlflow.keras
    from mlflow.models import Model

    mlflow.keras.save_model(
        model,
        path,
        mlflow_model=Model(
            artifact_path=logged.artifact_location,
            model_uuid=logged.model_id,
            run_id=run_id,
            model_id=logged.model_id,
        ),
        signature=model_signature(model),
        pip_requirements=requirements("keras", "tensorflow", "numpy"),
    )


def model_signature(model: Any) -> ModelSignature:
    """Signature from the shapes of a built Keras model.

    The batch axis and other open axes are -1. Inputs are named when there are several.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import Schema

    def schema(tensors: list[Any]) -> Schema:
        named = len(tensors) > 1
        return Schema([_tensor_spec(tensor, named) for tensor in tensors])

    return ModelSignature(inputs=schema(model.inputs), outputs=schema(model.outputs))


def _tensor_spec(tensor: Any, named: bool) -> Any:
    import numpy as np
    from mlflow.types import TensorSpec

    shape = tuple(-1 if extent is None else int(extent) for extent in tensor.shape)
    # numpy has no bfloat16; such models take and give float32 outside.
    dtype = "float32" if tensor.dtype == "bfloat16" else tensor.dtype
    return TensorSpec(np.dtype(dtype), (-1, *shape[1:]), tensor.name if named else None)
