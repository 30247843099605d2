"""Options of the shuffle backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from spark_dlobd.backends.base import BackendConfig
from spark_dlobd.backends.options import check_numbers
from spark_dlobd.errors import ConfigurationError

_WIRES = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class ShuffleConfig(BackendConfig):
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

    backend_class: ClassVar[str] = "spark_dlobd.backends.shuffle.backend:ShuffleBackend"

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
        check_numbers(
            self,
            {"sync_every": 1, "max_restarts": 0, "iterations_per_job": 1},
            above={"start_timeout_s": 0, "progress_timeout_s": 0},
        )
        if self.sync_every > 1 and self.wire != "fp32":
            raise ConfigurationError(
                f"wire={self.wire!r} needs sync_every=1: with sync_every={self.sync_every} the "
                "weights themselves are averaged and would lose the bits that steps change."
            )
        if self.error_feedback and self.wire == "fp32":
            raise ConfigurationError(
                "error_feedback=True needs wire='bf16' or 'fp16': fp32 rounds nothing."
            )
