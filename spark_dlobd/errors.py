"""Every error this library raises, in one tree.

::

    DLError
    ├── ConfigurationError (ValueError)      a setting, found before any Spark job
    │   ├── ConfigurationTypeError (TypeError)   its type or its name is wrong
    │   ├── ResourceError                    too few slots, no GPU, no MPI
    │   ├── MissingDependencyError           an extra that is not installed
    │   └── NotAvailableError (AttributeError)  what only a model or a fit brings
    ├── DataError (ValueError)               what is in the DataFrame
    ├── ModelError (ValueError)              the Keras model itself
    │   └── ModelTypeError (TypeError)       it is no Keras model
    ├── PersistenceError (RuntimeError)      saving or loading
    ├── BuildError (RuntimeError)            Horovod's wheel is not built or does not load
    └── TrainingError (RuntimeError)         something failed while training
        ├── WorkerError                      one rank failed: rank, host, phase, traceback
        │   ├── WorkerLostError              its process or executor was killed
        │   └── NonFiniteLossError           the loss became NaN or infinite
        ├── WorkersDisagreeError             ranks differ where they must be equal
        └── TrainingTimeoutError             a wait ended at its limit
            ├── WorkerStalledError (WorkerError) one rank kept the others waiting
            └── RanksNotConnectedError       the ranks started and did not find each other

All of them survive pickling, so they may cross from executors to the driver.
"""

from __future__ import annotations

from typing import Any

from spark_dlobd.wording import useful_part


class DLError(Exception):
    """Base of all errors of this library."""


class ConfigurationError(DLError, ValueError):
    """A setting is wrong or two settings contradict each other."""


class ConfigurationTypeError(ConfigurationError, TypeError):
    """A setting has the wrong type or a name that does not exist."""


class ResourceError(ConfigurationError):
    """The cluster does not offer what the configuration asks for."""


class MissingDependencyError(ConfigurationError):
    """A needed package or program is not installed."""


class NotAvailableError(ConfigurationError, AttributeError):
    """An attribute that only a given model or a finished fit has.

    Also an `AttributeError`, so that ``hasattr`` says False.
    """


class DataError(DLError, ValueError):
    """The DataFrame holds what cannot be trained on or scored."""


class ModelError(DLError, ValueError):
    """The Keras model cannot be used."""


class ModelTypeError(ModelError, ConfigurationTypeError):
    """What was given as the model is no Keras model."""


class PersistenceError(DLError, RuntimeError):
    """Saving or loading failed."""


class BuildError(DLError, RuntimeError):
    """Horovod's wheel cannot be built, or does not work."""


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
        if worker_traceback:
            message = useful_part(message)
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


class WorkerStalledError(WorkerError, TrainingTimeoutError):
    """One rank came no further while the others waited for it."""


class RanksNotConnectedError(TrainingTimeoutError):
    """All ranks started, and then could not connect with one another."""
