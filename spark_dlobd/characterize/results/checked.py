"""Predictions against what a sweep measured. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spark_dlobd.cost.explanation import Explanation
from spark_dlobd.cost.model import predict, way_of

if TYPE_CHECKING:
    from spark_dlobd.characterize.results.record import CaseRecord
    from spark_dlobd.characterize.sweep.case import Case


@dataclass(frozen=True)
class Checked:
    """One case, predicted and measured.

    Attributes
    ----------
    case : Case
        What ran.
    predicted_s, measured_s : float
        Seconds of an epoch, as `report.epochs` has them.
    """

    case: Case
    predicted_s: float
    measured_s: float

    @property
    def relative_error(self) -> float:
        """How far off, as a share of what was measured; above 0 if predicted too long."""
        return self.predicted_s / self.measured_s - 1

    @property
    def row(self) -> dict[str, Any]:
        """One line of a table."""
        case = self.case
        return {
            "model": case.model,
            "data": case.data,
            "backend": case.backend,
            "transport": case.transport,
            "workers": case.workers,
            "batch_size": case.batch_size,
            "predicted_s": round(self.predicted_s, 3),
            "measured_s": round(self.measured_s, 3),
            "relative_error": round(self.relative_error, 3),
        }


def predict_case(explanation: Explanation | Mapping[str, Any], case: Case) -> float | None:
    """Seconds per epoch of a case; the explanation has to be of its model and data.

    Parameters
    ----------
    explanation : Explanation or mapping
        Or its ``to_json()``.
    case : Case
        May have other numbers of workers and rows, another batch and backend.

    Returns
    -------
    float or None
        None where nothing was measured that would say it: an emulated link, a backend
        without formula, TCP between workers if only one slot was probed.
    """
    found = (
        explanation if isinstance(explanation, Explanation) else Explanation.from_json(explanation)
    )
    way = way_of(case.backend_param)
    if way is None or case.link_mbit is not None:
        return None
    meets = way.backend in ("collective", "horovod", "parameter_server") and case.workers > 1
    if meets and found.cluster.bytes_per_s is None:
        return None
    work = replace(
        found.work,
        rows=case.rows or found.work.rows,
        batch_size=case.batch_size,
        epochs=case.epochs,
    )
    return predict(way, case.workers, work, found.cluster, found.step).epoch_s


def check_predictions(
    explanation: Explanation | Mapping[str, Any], records: Iterable[CaseRecord]
) -> list[Checked]:
    """Compare with every record that finished and can be predicted.

    Records of a model with another number of weights are left out.

    Parameters
    ----------
    explanation : Explanation or mapping
        Of one model and data, as in `predict_case`.
    records : iterable of CaseRecord
        Of a sweep.
    """
    found = (
        explanation if isinstance(explanation, Explanation) else Explanation.from_json(explanation)
    )
    checked = []
    for record in records:
        weights = record.report.get("trainable_weights", found.weights)
        measured = record.seconds_per_epoch
        if not record.finished or measured is None or weights != found.weights:
            continue
        predicted = predict_case(found, record.case)
        if predicted is not None:
            checked.append(Checked(record.case, predicted, measured))
    return checked


def largest_error(checked: Iterable[Checked]) -> float:
    """Largest relative error, without its sign; 0 of nothing."""
    return max((abs(one.relative_error) for one in checked), default=0.0)
