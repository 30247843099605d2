"""The contract between the estimator and the ways gradients travel."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.data.dataset import DatasetRef
    from spark_dlobd.tracking.reporter import Reporter
    from spark_dlobd.training.job import TrainJob, TrainResult


class Backend(Protocol):
    """One way of training. Runs on the driver."""

    name: ClassVar[str]

    def check(self, spark: SparkSession, job: TrainJob) -> None:
        """Raise `ConfigurationError` if this backend cannot run `job` here.

        Called before any Spark job of the fit; starts nothing.
        """

    def fit(
        self, spark: SparkSession, job: TrainJob, data: DatasetRef, reporter: Reporter
    ) -> TrainResult:
        """Train to the end, or raise one `DLError`."""
