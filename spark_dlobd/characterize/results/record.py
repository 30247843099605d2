"""The result of one case: what a sweep writes down and what figures are made from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.errors import PersistenceError
from spark_dlobd.report import epochs

SCHEMA_VERSION = 1
STATUSES = ("finished", "failed", "timed out")


@dataclass(frozen=True)
class CaseRecord:
    """What is known about one case after it ran; one line of the results file.

    A case that failed or ran into its time limit has a record too, so that it is not
    run again and the page shows it. A case that was interrupted has none.

    Attributes
    ----------
    case : Case
        What ran.
    status : {"finished", "failed", "timed out"}
        How it ended.
    machine : dict
        Where: the keys of `spark_dlobd.tracking.system_facts`, and, where known,
        ``cpu`` (model name), ``gpus`` (list of names), ``hosts`` and ``note``.
    data : dict
        `DatasetDescription.to_json` of what it trained on; empty if it did not get there.
    report : dict
        ``DLModel.report`` as it is. Used here: ``total_seconds``, ``seconds`` by phase,
        ``epoch_seconds``, ``rows_per_second``, ``metrics_over_time`` (metric to
        ``[epoch, seconds, value]``), ``training_shares``, ``utilization``, ``limit``,
        ``bytes_sent_per_step`` and ``transport``. Each may be missing.
    test_accuracy : float or None
        Of the trained model on the test rows.
    test_seconds : float or None
        What scoring the test rows took.
    started : float or None
        When the case began, in seconds since 1970.
    error : str or None
        Why it did not finish: the exception's text, with its traceback if there is one.
    wall_seconds : float or None
        What the case took in all: besides `seconds` also the start and end of Spark and
        the loading of the data. Estimates are made from it.
    explanation : dict
        ``Explanation.to_json`` of its fit, where the case was asked for it.

    Examples
    --------
    >>> case = Case("softmax", "generated-mnist", "local", "process", 1)
    >>> CaseRecord(case, "finished", report={"total_seconds": 3.5}, test_seconds=0.5).seconds
    4.0
    """

    case: Case
    status: str
    machine: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    test_accuracy: float | None = None
    test_seconds: float | None = None
    started: float | None = None
    error: str | None = None
    wall_seconds: float | None = None
    explanation: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the status."""
        if self.status not in STATUSES:
            raise PersistenceError(
                f"status must be one of {', '.join(map(repr, STATUSES))}. Got {self.status!r}."
            )

    @property
    def finished(self) -> bool:
        """Whether there is something to measure."""
        return self.status == "finished"

    @property
    def seconds(self) -> float | None:
        """End-to-end seconds: training, start-up and reading included, and testing."""
        total = self.report.get("total_seconds")
        return None if total is None else float(total) + (self.test_seconds or 0.0)

    @property
    def epoch_seconds(self) -> list[float]:
        """Seconds of the training steps of each epoch."""
        return [float(value) for value in self.report.get("epoch_seconds") or ()]

    @property
    def rows_per_second(self) -> float | None:
        """Images per second, as `report.epochs` has it."""
        return epochs.rows_per_second(self.report)

    @property
    def seconds_per_epoch(self) -> float | None:
        """Of an epoch, as `report.epochs` has it."""
        return epochs.seconds_per_epoch(self.report)

    @property
    def accuracy_over_time(self) -> list[tuple[float, float]]:
        """Seconds since the fit began and accuracy, on validation rows if there are any."""
        over_time = self.report.get("metrics_over_time") or {}
        for name in ("val_accuracy", "accuracy"):
            if over_time.get(name):
                return [(float(point[1]), float(point[2])) for point in over_time[name]]
        return []

    def seconds_to(self, accuracy: float) -> float | None:
        """Seconds from the start of the fit to the first epoch that has this accuracy."""
        return next((s for s, value in self.accuracy_over_time if value >= accuracy), None)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part of the training steps' time, as far as it was measured."""
        parts = self.report.get("training_shares") or {}
        return {name: float(share) for name, share in parts.items() if share is not None}

    @property
    def utilization(self) -> list[dict[str, Any]]:
        """One dict a rank, as ``report.schema.Utilization``."""
        return [series for series in self.report.get("utilization") or () if series["seconds"]]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict; not-a-number becomes a word."""
        from spark_dlobd.tracking.encoding import jsonable

        content = {
            "schema": SCHEMA_VERSION,
            "id": self.case.id,
            "case": self.case.to_json(),
            "status": self.status,
            "machine": self.machine,
            "data": self.data,
            "report": self.report,
            "test_accuracy": self.test_accuracy,
            "test_seconds": self.test_seconds,
            "started": self.started,
            "error": self.error,
            "wall_seconds": self.wall_seconds,
            "explanation": self.explanation,
        }
        encoded: dict[str, Any] = jsonable(content)
        return encoded

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> CaseRecord:
        """Read what `to_json` gave.

        Raises
        ------
        PersistenceError
            If it is of another version or lacks something.
        """
        if content.get("schema") != SCHEMA_VERSION:
            raise PersistenceError(
                f"A result must have schema {SCHEMA_VERSION}. Got {content.get('schema')!r}: it "
                "was written by another version of spark_dlobd."
            )
        values = {key: _numbers(v) for key, v in content.items() if key not in ("schema", "id")}
        try:
            return cls(**{**values, "case": Case.from_json(content["case"])})
        except (KeyError, TypeError) as error:
            raise PersistenceError(f"A result lacks or has too many fields: {error}") from error


_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _numbers(value: Any) -> Any:
    """Turn the words for what JSON has no number for back into floats."""
    if isinstance(value, str):
        return _WORDS.get(value, value)
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    return value
