"""The shuffle backend and its options. Runs on the driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from spark_dlobd.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.backends.base import Backend
    from spark_dlobd.data.dataset import DatasetRef
    from spark_dlobd.tracking.reporter import Reporter
    from spark_dlobd.training.job import TrainJob, TrainResult

_WIRES = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class ShuffleConfig:
    """Synchronize through Spark's shuffle: no sockets, no extra processes.

    Works wherever a Spark job runs and with what Spark offers: authentication,
    encryption, dynamic allocation, speculation and recovery from lost executors. With
    fewer slots than workers the workers take turns.

    Parameters
    ----------
    wire : {"fp32", "bf16", "fp16"}
        Type of gradients and weights in the shuffle. Sums, updates and the weights that
        are kept are fp32 in every case. In fp16 a value beyond 65,504 ends the fit.
    error_feedback : bool
        Add what rounding took from a gradient to the next one of the same worker.
    sync_every : int
        Steps that each worker takes by itself, with its own optimizer, before weights
        and optimizer state are averaged. 1 is synchronous gradient descent, as in the
        other backends; more is faster and another algorithm (parameter averaging).
    state : {"host", "shuffle"} or None
        Where the state of a slice (fp32 weights and optimizer) waits for the next update.
        In a file of its executor: fast; a job in which it is lost with its executor, or
        missed by a task that Spark moved, is repeated with the state in the shuffle. In the
        shuffle: three times the bytes with Adam, but Spark recomputes what is lost by
        itself, and encrypts it with ``spark.io.encryption.enabled``. None is ``"shuffle"``
        with that encryption or with ``spark.speculation``, else ``"host"``.
    iterations_per_job : int or None
        Synchronizations in one Spark job. None chooses jobs of some seconds. Between
        jobs the state is written to the cache directory: that is where a lost fit goes
        on, and no more than this many iterations are computed again.
    max_restarts : int
        How often a job that failed for lack of executors, disks or network is run again
        from its checkpoint. Errors of user code and of the data are never repeated.
    start_timeout_s : float
        Longest wait until all workers have built the model.
    progress_timeout_s : float
        Longest time without the end of any task.

    Examples
    --------
    >>> ShuffleConfig(wire="bf16", error_feedback=True).sync_every
    1
    """

    wire: Literal["fp32", "bf16", "fp16"] = "fp32"
    error_feedback: bool = False
    sync_every: int = 1
    state: Literal["host", "shuffle"] | None = None
    iterations_per_job: int | None = None
    max_restarts: int = 2
    start_timeout_s: float = 300.0
    progress_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        """Check every option."""
        if self.wire not in _WIRES:
            raise ConfigurationError(
                f"wire must be one of {', '.join(map(repr, _WIRES))}. Got {self.wire!r}."
            )
        if self.state not in (None, "host", "shuffle"):
            raise ConfigurationError(
                f"state must be None, 'host' or 'shuffle'. Got {self.state!r}."
            )
        lowest = {"sync_every": 1, "max_restarts": 0, "iterations_per_job": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is None and name == "iterations_per_job":
                continue
            if not isinstance(value, int) or value < least:
                raise ConfigurationError(f"{name} must be an int in [{least}, inf). Got {value!r}.")
        for name in ("start_timeout_s", "progress_timeout_s"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(f"{name} must be a number above 0. Got {value!r}.")
        if self.sync_every > 1 and self.wire != "fp32":
            raise ConfigurationError(
                f"wire={self.wire!r} needs sync_every=1: with sync_every={self.sync_every} the "
                "weights themselves are averaged and would lose the bits that steps change."
            )
        if self.error_feedback and self.wire == "fp32":
            raise ConfigurationError(
                "error_feedback=True needs wire='bf16' or 'fp16': fp32 rounds nothing."
            )

    def create(self) -> Backend:
        """Return the backend."""
        return ShuffleBackend(self)


class ShuffleBackend:
    """Jobs of gradient and update stages."""

    name: ClassVar[str] = "shuffle"

    def __init__(self, config: ShuffleConfig) -> None:
        self._config = config

    def check(self, spark: SparkSession, job: TrainJob) -> None:
        """Check optimizer and session."""
        from spark_dlobd.backends.shuffle.optimizer_rules import cut_rule
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
        _check_callbacks(job.config.callbacks)
        if self._config.sync_every == 1:
            spec = job.model
            cut_rule(spec.compile_config["optimizer"], (), spec.custom_objects)

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
