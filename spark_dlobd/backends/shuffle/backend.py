"""The shuffle backend. Runs on the driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from spark_dlobd.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.backends.shuffle.config import ShuffleConfig
    from spark_dlobd.job.dataset import DatasetRef
    from spark_dlobd.job.train_job import TrainJob, TrainResult
    from spark_dlobd.tracking.reporter import Reporter


class ShuffleBackend:
    """Jobs of gradient and update stages."""

    name: ClassVar[str] = "shuffle"
    keeps_optimizer: ClassVar[bool] = True

    def __init__(self, config: ShuffleConfig) -> None:
        self._config = config

    def check(self, spark: SparkSession, job: TrainJob) -> None:
        """Check optimizer and session."""
        from spark_dlobd.backends.shuffle.slices.rules import cut_rule
        from spark_dlobd.spark import spark_context

        conf = spark_context(spark).getConf()
        if str(conf.get("spark.python.worker.reuse", "true")).lower() != "true":
            raise ConfigurationError(
                "backend='shuffle' needs spark.python.worker.reuse=true, Spark's default: every "
                "task would import TensorFlow and build the model anew."
            )
        speculates = str(conf.get("spark.speculation", "false")).lower() == "true"
        if speculates and self._config.state == "host":
            raise ConfigurationError(
                "state='host' of ShuffleConfig does not work with spark.speculation=true: Spark's "
                "copy of a slow task would not find the state on its host. Use state=None or "
                "'shuffle', or turn speculation off."
            )
        if job.config.keep_optimizer and self._config.sync_every > 1:
            raise ConfigurationError(
                f"optimizerState='keep' and 'resume' need sync_every=1. Got sync_every="
                f"{self._config.sync_every}: each worker has an optimizer of its own then, and "
                "only a part of its state is averaged."
            )
        _check_callbacks(job.config.callbacks)
        if self._config.sync_every == 1:
            network = job.network
            cut_rule(network.compile_config["optimizer"], (), network.custom_objects)

    def fit(
        self, spark: SparkSession, job: TrainJob, data: DatasetRef, reporter: Reporter
    ) -> TrainResult:
        """Train on `numTrainWorkers` partitions."""
        from spark_dlobd.backends.shuffle.fit import ShuffleFit

        return ShuffleFit(spark, job, data, reporter, self._config).run()


def _check_callbacks(callbacks: Sequence[Any]) -> None:
    """Callbacks run on the driver, where the optimizer's state is only in the end."""
    import keras

    refused = (keras.callbacks.SwapEMAWeights, keras.callbacks.BackupAndRestore)
    for callback in callbacks:
        if isinstance(callback, refused):
            raise ConfigurationError(
                f"{type(callback).__name__} does not work with backend='shuffle': it needs the "
                "optimizer's state while training runs, which is on the workers. Leave it out or "
                "use another backend."
            )
