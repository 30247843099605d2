"""Tracking: what a fit tells the outside world."""

from __future__ import annotations

from spark_dlobd.processes.machine import system_facts
from spark_dlobd.tracking.base import Tracker
from spark_dlobd.tracking.jsonl import JsonLinesTracker
from spark_dlobd.tracking.mlflow import MlflowTracker, log_pipeline_model
from spark_dlobd.tracking.reporter import Reporter

__all__ = [
    "JsonLinesTracker",
    "MlflowTracker",
    "Reporter",
    "Tracker",
    "log_pipeline_model",
    "system_facts",
]
