"""Fits and fitted pipelines in MLflow."""

from __future__ import annotations

from spark_dlobd.tracking.mlflow.pipeline import log_pipeline_model
from spark_dlobd.tracking.mlflow.tracker import MlflowTracker

__all__ = ["MlflowTracker", "log_pipeline_model"]
