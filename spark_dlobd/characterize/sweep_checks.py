"""What a sweep may not ask for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spark_dlobd.characterize import transports
from spark_dlobd.characterize.case import Case
from spark_dlobd.characterize.datasets import dataset_names
from spark_dlobd.characterize.models import model_names
from spark_dlobd.errors import ConfigurationError

if TYPE_CHECKING:
    from spark_dlobd.characterize.sweep import SweepSpec


def check_names(spec: SweepSpec) -> None:
    """Raise if a name is unknown."""
    choices = {
        "models": model_names(),
        "data": dataset_names(),
        "backends": transports.backends(),
        "transports": tuple(
            name for backend in transports.backends() for name in transports.transports_of(backend)
        ),
        "compression": transports.COMPRESSIONS,
    }
    for key, valid in choices.items():
        for value in getattr(spec, key):
            if value not in valid:
                raise ConfigurationError(
                    f"{key} must be of {', '.join(map(repr, valid))}. Got {value!r}."
                )
    if not isinstance(spec.name, str) or not isinstance(spec.paths, Mapping):
        raise ConfigurationError(
            "name must be a text and paths a mapping of data set to folder. "
            f"Got {spec.name!r} and {spec.paths!r}."
        )


def check_numbers(spec: SweepSpec) -> None:
    """Raise if a number is out of range."""
    if spec.batch and spec.batch_per_worker:
        raise ConfigurationError("Give batch or batch_per_worker, not both.")
    for key in ("workers", "batch", "batch_per_worker", "link_mbit"):
        for value in getattr(spec, key):
            if not (value is None and key == "link_mbit"):
                _check_count(key, value)
    for key in ("repeats", "epochs"):
        _check_count(key, getattr(spec, key))
    for key in ("rows", "test_rows"):
        if getattr(spec, key) is not None:
            _check_count(key, getattr(spec, key))
    limit = spec.time_limit_s
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
        raise ConfigurationError(f"time_limit_s must be above 0. Got {limit!r}.")


def _check_count(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{key} must be an int in [1, inf). Got {value!r}.")


def impossible(case: Case) -> str | None:
    """Why a case cannot run, if so."""
    if case.batch_size < case.workers:
        return f"{case.workers} workers with a batch of {case.batch_size}: fewer rows than workers"
    if case.rows is not None and case.rows < case.workers:
        return f"{case.workers} workers with {case.rows} rows: fewer rows than workers"
    if case.backend == "local" and case.workers > 1:
        return f"{case.workers} workers of local: they would take turns in one process"
    if case.link_mbit is not None and not transports.crosses_hosts(case.transport):
        return (
            f"{case.transport} of {case.backend} over links of {case.link_mbit} Mbit/s: "
            "it does not leave a host"
        )
    return None


def where_it_belongs(key: str, value: Any) -> str:
    """Say what a value that fits nowhere would fit."""
    if key == "transports":
        return f"it belongs to the backend {transports.get_transport(value).backend!r}"
    return "all of its combinations are impossible"


def by(shape: Sequence[int]) -> str:
    """Write ``(28, 28, 1)`` as ``28x28x1``."""
    return "x".join(map(str, shape))
