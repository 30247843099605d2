"""Keras models trained and applied inside Spark ML Pipelines.

Every public name is here. Names are imported when they are first used, so that
importing the package, on the driver or in a worker, costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spark_dlobd.backends.collective.config import CollectiveConfig as CollectiveConfig
    from spark_dlobd.backends.horovod.config import HorovodConfig as HorovodConfig
    from spark_dlobd.backends.local import LocalConfig as LocalConfig
    from spark_dlobd.backends.parameter_server.config import (
        ParameterServerConfig as ParameterServerConfig,
    )
    from spark_dlobd.backends.registry import register_backend as register_backend
    from spark_dlobd.backends.shuffle.config import ShuffleConfig as ShuffleConfig
    from spark_dlobd.data.materialize import reuse_data as reuse_data
    from spark_dlobd.estimators.estimator import DLEstimator as DLEstimator
    from spark_dlobd.estimators.model import DLModel as DLModel
    from spark_dlobd.job.input_columns import ImageColumn as ImageColumn
    from spark_dlobd.job.input_columns import SequenceColumn as SequenceColumn
    from spark_dlobd.tracking.mlflow import MlflowTracker as MlflowTracker
    from spark_dlobd.tracking.mlflow import log_pipeline_model as log_pipeline_model

_HOMES = {
    "CollectiveConfig": "spark_dlobd.backends.collective.config",
    "DLEstimator": "spark_dlobd.estimators.estimator",
    "DLModel": "spark_dlobd.estimators.model",
    "HorovodConfig": "spark_dlobd.backends.horovod.config",
    "ImageColumn": "spark_dlobd.job.input_columns",
    "LocalConfig": "spark_dlobd.backends.local",
    "MlflowTracker": "spark_dlobd.tracking.mlflow",
    "ParameterServerConfig": "spark_dlobd.backends.parameter_server.config",
    "SequenceColumn": "spark_dlobd.job.input_columns",
    "ShuffleConfig": "spark_dlobd.backends.shuffle.config",
    "log_pipeline_model": "spark_dlobd.tracking.mlflow",
    "register_backend": "spark_dlobd.backends.registry",
    "reuse_data": "spark_dlobd.data.materialize",
}

__all__ = [
    "CollectiveConfig",
    "DLEstimator",
    "DLModel",
    "HorovodConfig",
    "ImageColumn",
    "LocalConfig",
    "MlflowTracker",
    "ParameterServerConfig",
    "SequenceColumn",
    "ShuffleConfig",
    "log_pipeline_model",
    "register_backend",
    "reuse_data",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
