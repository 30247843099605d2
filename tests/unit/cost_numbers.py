"""A cluster and a model of round numbers."""

from __future__ import annotations

from typing import Any

from spark_dlobd.cost.measured import ClusterCost, StepCost
from spark_dlobd.cost.model import Workload


def cluster(**changes: Any) -> ClusterCost:
    """Two slots on one machine of two cores."""
    values: dict[str, Any] = {
        "slots": 2,
        "hosts": 1,
        "cores_per_host": 2,
        "cores_per_task": 1,
        "memory_bytes_per_host": 8 * 10**9,
        "workers": 2,
        "latency_s": 1e-4,
        "bytes_per_s": 1e9,
        "copy_bytes_per_s": 4e9,
        "stage_s": 0.03,
        "stage_bytes_per_s": 1e8,
        "job_s": 0.1,
    }
    return ClusterCost(**{**values, **changes})


def step(**changes: Any) -> StepCost:
    """20 ms and 0.5 ms a row; two at once on a host take a quarter longer."""
    values: dict[str, Any] = {
        "workers": 2,
        "workers_per_host": 2,
        "rows": 64,
        "seconds": 0.065,
        "alone_seconds": 0.052,
        "full_rows": 128,
        "full_seconds": 0.084,
        "driver_seconds": 0.042,
        "ready_s": 4.0,
        "tracing_s": 1.5,
        "memory_bytes": 700 * 10**6,
    }
    return StepCost(**{**values, **changes})


def work(**changes: Any) -> Workload:
    """100 steps of a million weights."""
    values: dict[str, Any] = {
        "rows": 12_800,
        "batch_size": 128,
        "epochs": 3,
        "weights": 10**6,
        "gradient_bytes": 4 * 10**6,
        "row_bytes": 3140,
    }
    return Workload(**{**values, **changes})
