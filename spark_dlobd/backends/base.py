"""The contract between the estimator and the ways gradients travel."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from typing_extensions import Self

    from spark_dlobd.job.dataset import DatasetRef
    from spark_dlobd.job.train_job import TrainJob, TrainResult
    from spark_dlobd.tracking.reporter import Reporter


class Backend(Protocol):
    """One way of training. Runs on the driver.

    A backend whose class has ``keeps_optimizer = True`` starts with
    ``job.network.optimizer_state``, where there is one, and returns it in the result where
    ``job.config.keep_optimizer`` asks for it; with others such a job is refused.
    """

    name: ClassVar[str]

    def check(self, spark: SparkSession, job: TrainJob) -> None:
        """Raise `ConfigurationError` if this backend cannot run `job` here.

        Called before any Spark job of the fit; starts nothing.
        """

    def fit(
        self, spark: SparkSession, job: TrainJob, data: DatasetRef, reporter: Reporter
    ) -> TrainResult:
        """Train to the end, or raise one `DLError`."""


class BackendConfig:
    """Base of a backend's options, a frozen dataclass; imports the backend when it is made."""

    backend_class: ClassVar[str]
    """``"module:Class"`` of the backend, which is called with these options."""

    def create(self) -> Backend:
        """Return the backend."""
        module, _, name = self.backend_class.partition(":")
        return cast(Backend, getattr(importlib.import_module(module), name)(self))

    def picklable(self) -> Self:
        """Return the same options to send: not every mapping pickles, a dict does."""
        own: Any = self
        mappings = {
            field.name: dict(value)
            for field in fields(own)
            if isinstance(value := getattr(own, field.name), Mapping)
        }
        return cast("Self", replace(own, **mappings))
