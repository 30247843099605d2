"""What one process tells another: frozen data here, JSON on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from spark_dlobd.processes.failure import Failure

Made = TypeVar("Made", bound="Event")


@dataclass(frozen=True)
class Event:
    """Something that happened; each kind is a frozen subclass with JSON-able fields.

    Examples
    --------
    >>> Phase("train epoch 0").to_json()
    {'kind': 'Phase', 'text': 'train epoch 0'}
    >>> Event.from_json({"kind": "Phase", "text": "train epoch 0"})
    Phase(text='train epoch 0')
    """

    _kinds: ClassVar[dict[str, type[Event]]] = {}

    def __init_subclass__(cls) -> None:
        known = Event._kinds.setdefault(cls.__name__, cls)
        if known.__module__ != cls.__module__:
            raise TypeError(f"{known.__module__} has an event {cls.__name__} too")

    def to_json(self) -> dict[str, Any]:
        """As a frame or a line holds it."""
        return {"kind": type(self).__name__, **vars(self)}

    @staticmethod
    def from_json(told: Mapping[str, Any]) -> Event:
        """What `to_json` made.

        Raises
        ------
        ValueError
            If it is no event of this version of the library.
        """
        fields = dict(told)
        kind = Event._kinds.get(fields.pop("kind", ""))
        if kind is None:
            raise ValueError(f"{told.get('kind')!r} is no event")
        try:
            return kind._of(fields)
        except (TypeError, KeyError) as error:
            raise ValueError(f"{kind.__name__} was told otherwise: {error}") from None

    @classmethod
    def _of(cls: type[Made], fields: dict[str, Any]) -> Made:
        return cls(**fields)


@dataclass(frozen=True)
class Placed(Event):
    """A task knows which rank it is."""

    rank: int
    host: str


@dataclass(frozen=True)
class Phase(Event):
    """What is done now."""

    text: str


@dataclass(frozen=True)
class Met(Event):
    """A rank has found the others."""


@dataclass(frozen=True)
class Attended(Event):
    """How far a rank has come.

    Attributes
    ----------
    joined : int
        Collective operations that it has joined.
    waiting : bool
        Whether it waits in one of them.
    marks : int
        Beginnings and ends of steps and callbacks.
    phase : str
        What it does.
    may_compile : bool
        Whether TensorFlow may trace and compile meanwhile, which has no known length.
    """

    joined: int
    waiting: bool
    marks: int
    phase: str
    may_compile: bool


@dataclass(frozen=True)
class Stacks(Event):
    """What the threads of a rank do that has come no further for a while."""

    text: str


@dataclass(frozen=True)
class Measured(Event):
    """What a rank measured, as `spark_dlobd.report.observed.Observed.measured` wants it."""

    facts: dict[str, Any]


@dataclass(frozen=True)
class Steps(Event):
    """Finished steps: epoch, step of it, metrics."""

    steps: list[tuple[int, int, dict[str, float]]]


@dataclass(frozen=True)
class Epoch(Event):
    """A finished epoch and its metrics, averaged over all ranks."""

    epoch: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Printed(Event):
    """A line that a process printed."""

    host: str
    text: str


@dataclass(frozen=True)
class Failed(Event):
    """What ended a worker."""

    failure: Failure

    def to_json(self) -> dict[str, Any]:
        """As a frame or a line holds it."""
        return {"kind": type(self).__name__, "failure": self.failure.to_json()}

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Failed:
        return cls(Failure.from_json(fields["failure"]))


@dataclass(frozen=True)
class Result(Event):
    """Rank 0 has trained to the end; the archives follow by another way.

    Attributes
    ----------
    history : dict of str to list of float
        Metrics by epoch.
    report : dict
        JSON-able facts.
    archive_bytes : int
        Length of the model's archive; the optimizer's state follows it.
    """

    history: dict[str, list[float]]
    report: dict[str, Any]
    archive_bytes: int


@dataclass(frozen=True)
class Disconnected(Event):
    """A task's connection ended before it said good-bye."""
