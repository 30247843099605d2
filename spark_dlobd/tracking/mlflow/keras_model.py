"""A Keras model in MLflow's Keras flavour, without MLflow's inspection of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spark_dlobd.processes.versions import requirements
from spark_dlobd.tracking.mlflow.types import numpy_type
from spark_dlobd.training.signature import Signature, Tensor, inputs_of, outputs_of

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

    The batch axis is -1. Inputs and outputs are named where there are several.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import Schema

    def schema(signature: Signature) -> Schema:
        named = signature.structure.kind != "one"
        return Schema([_tensor_spec(tensor, named) for tensor in signature.tensors])

    return ModelSignature(inputs=schema(inputs_of(model)), outputs=schema(outputs_of(model)))


def _tensor_spec(tensor: Tensor, named: bool) -> Any:
    from mlflow.types import TensorSpec

    name = tensor.name if named else None
    return TensorSpec(numpy_type(tensor.dtype), (-1, *tensor.shape), name)
