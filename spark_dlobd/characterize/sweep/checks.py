"""What a sweep may not ask for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spark_dlobd.characterize.subjects.datasets import dataset_names
from spark_dlobd.characterize.subjects.models import model_names
from spark_dlobd.characterize.sweep import transports
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.errors import ConfigurationError


def check_names(asked: Mapping[str, Any]) -> None:
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
        for value in asked[key]:
            if value not in valid:
                raise ConfigurationError(
                    f"{key} must be of {', '.join(map(repr, valid))}. Got {value!r}."
                )
    if not isinstance(asked["name"], str) or not isinstance(asked["paths"], Mapping):
        raise ConfigurationError(
            "name must be a text and paths a mapping of data set to folder. "
            f"Got {asked['name']!r} and {asked['paths']!r}."
        )


def check_numbers(asked: Mapping[str, Any]) -> None:
    """Raise if a number is out of range."""
    if asked["batch"] and asked["batch_per_worker"]:
        raise ConfigurationError("Give batch or batch_per_worker, not both.")
    for key in ("workers", "batch", "batch_per_worker", "link_mbit"):
        for value in asked[key]:
            if not (value is None and key == "link_mbit"):
                _check_count(key, value)
    for key in ("repeats", "epochs"):
        _check_count(key, asked[key])
    for key in ("rows", "test_rows"):
        if asked[key] is not None:
            _check_count(key, asked[key])
    limit = asked["time_limit_s"]
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
        raise ConfigurationError(f"time_limit_s must be above 0. Got {limit!r}.")


def _check_count(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{key} must be an int of at least 1. Got {value!r}.")


def impossible(case: Case) -> str | None:
    """Why a case cannot run, if so."""
    if case.batch_size < case.workers:
        return f"{case.workers} workers with a batch of {case.batch_size}: fewer rows than workers"
    if case.rows is not None and case.rows < case.workers:
        return f"{case.workers} workers with {case.rows} rows: fewer rows than workers"
    if case.link_mbit is not None and not transports.crosses_hosts(case.transport):
        return (
            f"{case.transport} of {case.backend} over links of {case.link_mbit} Mbit/s: "
            "it does not leave a host"
        )
    return None


def no_backend_of(transport: str, backends: Sequence[str]) -> str | None:
    """Why a transport is none of these backends', if so."""
    backend = transports.get_transport(transport).backend
    if backend in backends:
        return None
    return f"{transport}: it is a transport of {backend}, and the sweep has no such backend"


def by(shape: Sequence[int]) -> str:
    """Write ``(28, 28, 1)`` as ``28x28x1``."""
    return "x".join(map(str, shape))
