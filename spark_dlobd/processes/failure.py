"""What ended a worker, as it is told from process to process."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from spark_dlobd.errors import (
    DLError,
    NonFiniteLossError,
    TrainingError,
    TrainingTimeoutError,
    WorkerError,
    WorkerLostError,
    WorkersDisagreeError,
)

Cause = Literal["user", "nonfinite", "own", "lost", "timeout", "aborted", "peer"]
# Which failure explains the others; what peers see comes last.
_EXPLAINS: Mapping[str, int] = {
    "user": 0,
    "nonfinite": 0,
    "own": 1,
    "lost": 1,
    "timeout": 2,
    "aborted": 3,
    "peer": 4,
}
NOWHERE = -1


class NonFiniteLoss(Exception):
    """The loss became NaN or infinite, in the process that computed it.

    Parameters
    ----------
    message : str
        What happened.
    rank : int, optional
        Who computed the loss, where that is not who raises this.
    host : str, optional
        Where.
    """

    def __init__(self, message: str, rank: int = NOWHERE, host: str = "") -> None:
        super().__init__(message)
        self.rank = rank
        self.host = host

    @classmethod
    def at(cls, loss: float, epoch: int, step: int) -> NonFiniteLoss:
        """Say where, and what may help."""
        return cls(
            f"the loss became {loss} in epoch {epoch}, step {step}. Lower the learning "
            "rate, scale the features, clip gradients (clipnorm), or look for rows that "
            "make the loss infinite."
        )


@dataclass(frozen=True)
class Failure:
    """What ended a worker.

    Attributes
    ----------
    cause : str
        ``"user"``: an exception of the user's code; ``"nonfinite"``: the loss; ``"own"``: an
        error of this library; ``"lost"``: killed; ``"timeout"``: a limit; ``"aborted"`` and
        ``"peer"``: what others see of one of these.
    type, message, traceback : str
        Of the exception.
    phase : str
        What the worker was doing.
    rank : int
        Which one; -1 where that is not known.
    host : str
        Where.
    """

    cause: Cause
    type: str
    message: str
    phase: str
    traceback: str = ""
    rank: int = NOWHERE
    host: str = ""

    @classmethod
    def of(cls, error: BaseException, phase: str, cause: Cause | None = None) -> Failure:
        """What the exception that is being handled becomes.

        Parameters
        ----------
        error : Exception
            What was raised.
        phase : str
            What was being done.
        cause : str, optional
            Where the caller knows more than the type of the exception tells.
        """
        found = cls(
            cause or _cause_of(error),
            type(error).__name__,
            _message(error),
            phase,
            "".join(traceback.format_exception(error)),
        )
        if isinstance(error, WorkerError):
            return replace(found, message=error.message, phase=error.phase)
        if isinstance(error, NonFiniteLoss):
            return found.at(error.rank, error.host)
        return found

    def at(self, rank: int, host: str) -> Failure:
        """The same, with who and where, unless it says so already."""
        return self if self.host else replace(self, rank=rank, host=host)

    def to_json(self) -> dict[str, Any]:
        """As a frame or an event holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Failure:
        """What `to_json` made."""
        return cls(**told)

    def error(self) -> TrainingError:
        """The exception for the user."""
        where = (self.rank, self.host, self.phase)
        if self.cause == "nonfinite":
            return NonFiniteLossError(self.message, *where)
        if self.cause in ("lost", "aborted"):
            return WorkerLostError(self.message, *where)
        if self.cause == "timeout":
            return TrainingTimeoutError(self.message)
        if self.type == WorkersDisagreeError.__name__:
            return WorkersDisagreeError(self.message)
        return WorkerError(f"{self.type}: {self.message}", *where, self.traceback)


def root_failure(failures: Iterable[Failure]) -> Failure | None:
    """Return the one that explains the others; of equals the first."""
    return min(failures, key=lambda failure: _EXPLAINS[failure.cause], default=None)


def _message(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{text}. It cannot be imported there: send it along with --py-files or "
            "spark.sparkContext.addPyFile(...), install it there, or define what needs it in the "
            "program itself."
        )
    return text


def _cause_of(error: BaseException) -> Cause:
    if isinstance(error, NonFiniteLoss):
        return "nonfinite"
    if isinstance(error, DLError):
        return "own"
    if isinstance(error, ImportError):
        return "user"  # its text may name Horovod, but no peer is the reason
    if "orovod" in f"{type(error).__name__} {error}" or isinstance(error, EOFError):
        return "peer"  # what the others see when one rank leaves
    return "user"
