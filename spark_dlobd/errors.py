"""Every error this library raises, in one tree.

::

    DLError
    ├── ConfigurationError (ValueError)      a setting, found before any Spark job
    │   ├── ResourceError                    too few slots, no GPU, no MPI
    │   └── MissingDependencyError           an extra that is not installed
    ├── DataError (ValueError)               what is in the DataFrame
    ├── ModelError (ValueError)              the Keras model itself
    ├── PersistenceError (RuntimeError)      saving or loading
    └── TrainingError (RuntimeError)         something failed while training
        ├── WorkerError                      one rank failed: rank, host, phase, traceback
        │   ├── WorkerLostError              its process or executor was killed
        │   └── NonFiniteLossError           the loss became NaN or infinite
        ├── WorkersDisagreeError             ranks differ where they must be equal
        └── TrainingTimeoutError             a wait ended at its limit

All of them survive pickling, so they may cross from executors to the driver.
"""

from __future__ import annotations

from typing import Any


class DLError(Exception):
    """Base of all errors of this library."""


class ConfigurationError(DLError, ValueError):
    """A setting is wrong or two settings contradict each other."""


class ResourceError(ConfigurationError):
    """The cluster does not offer what the configuration asks for."""


class MissingDependencyError(ConfigurationError):
    """A needed package or program is not installed."""


class DataError(DLError, ValueError):
    """The DataFrame holds what cannot be trained on or scored."""


class ModelError(DLError, ValueError):
    """The Keras model cannot be used."""


class PersistenceError(DLError, RuntimeError):
    """Saving or loading failed."""


class TrainingError(DLError, RuntimeError):
    """Training failed."""


class WorkerError(TrainingError):
    """One rank failed.

    Parameters
    ----------
    message : str
        What happened, in one sentence.
    rank : int
        The rank that failed first.
    host : str
        Where it ran.
    phase : str
        What it was doing, e.g. ``"train epoch 2 step 17"``.
    worker_traceback : str, optional
        The traceback of the original exception, as text.
    """

    def __init__(
        self, message: str, rank: int, host: str, phase: str, worker_traceback: str = ""
    ) -> None:
        self.message = message
        self.rank = rank
        self.host = host
        self.phase = phase
        self.worker_traceback = worker_traceback
        text = f"Rank {rank} on {host} failed in phase '{phase}': {message}"
        if worker_traceback:
            text += f"\n\nOriginal traceback of rank {rank}:\n{worker_traceback.rstrip()}"
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.message,
            self.rank,
            self.host,
            self.phase,
            self.worker_traceback,
        )


class WorkerLostError(WorkerError):
    """The process or the executor of a rank was killed."""


class NonFiniteLossError(WorkerError):
    """The loss became NaN or infinite."""


class WorkersDisagreeError(TrainingError):
    """Ranks differ where they must be equal (versions, plan, weights)."""


class TrainingTimeoutError(TrainingError):
    """A wait ended at its limit."""
