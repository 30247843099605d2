"""What `DLEstimator.explain` returns: numbers, a table and a paragraph. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spark_dlobd.cost.measured import ClusterCost, StepCost
from spark_dlobd.cost.model import Prediction, Workload
from spark_dlobd.report.words import bytes_text

SCHEMA_VERSION = 2
_WIDTH = 96


@dataclass(frozen=True)
class Explanation:
    """Slots, shapes, bytes and predicted seconds of a fit that has not begun.

    ``print(explanation)`` shows a table.

    Attributes
    ----------
    model : str
        Name of the Keras model.
    input_shapes, output_shapes : tuple of tuple of int
        Of one row.
    weights, variables : int
        Trainable ones.
    row_counts : tuple of int
        Training and validation rows, before any are left out as invalid.
    work : Workload
        What the predictions are for.
    backend : str
        What the estimator's fit would take.
    workers : int
        The estimator's ``numTrainWorkers``.
    memory_bytes_per_worker : int
        Of a worker's process, as one of the probe had it; the shuffle's Spark memory comes
        on top.
    predictions : tuple of Prediction
        For every way and number of workers.
    recommended : Prediction
        One of them.
    why : str
        A paragraph.
    refused : mapping of str to str
        Backends that would refuse this fit, and why.
    cluster : ClusterCost
        What was probed of the application.
    step : StepCost
        What was probed of the model.
    """

    model: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    weights: int
    variables: int
    row_counts: tuple[int, int]
    work: Workload
    backend: str
    workers: int
    memory_bytes_per_worker: int
    predictions: tuple[Prediction, ...]
    recommended: Prediction
    why: str
    refused: Mapping[str, str]
    cluster: ClusterCost
    step: StepCost

    def prediction(self, label: str, workers: int) -> Prediction | None:
        """One of the predictions, by what tables call its way or by its backend's name."""
        found = [one for one in self.predictions if one.workers == workers]
        named = [one for one in found if label in (one.label, one.backend)]
        return named[0] if named else None

    def to_json(self) -> dict[str, Any]:
        """Return a dict that JSON can hold and `from_json` takes."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "schema": SCHEMA_VERSION,
            **{name: [list(shape) for shape in getattr(self, name)] for name in _SHAPES},
            "row_counts": list(self.row_counts),
            "refused": dict(self.refused),
            "work": asdict(self.work),
            "cluster": self.cluster.to_json(),
            "step": self.step.to_json(),
            "predictions": [_prediction_json(one) for one in self.predictions],
            "recommended": _prediction_json(self.recommended),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Explanation:
        """Read what `to_json` gave.

        Raises
        ------
        PersistenceError
            If it is of another version or lacks something.
        """
        from spark_dlobd.errors import PersistenceError

        content = _of_one_input(content) if content.get("schema") == 1 else content
        if content.get("schema") != SCHEMA_VERSION:
            raise PersistenceError(
                f"An explanation must have schema {SCHEMA_VERSION}. Got "
                f"{content.get('schema')!r}: it was written by another version of spark_dlobd."
            )
        try:
            values: dict[str, Any] = {name: content[name] for name in _PLAIN}
            values |= {name: tuple(map(tuple, content[name])) for name in _SHAPES}
            return cls(
                **values,
                row_counts=tuple(content["row_counts"]),
                refused=dict(content["refused"]),
                work=Workload(**content["work"]),
                cluster=ClusterCost(**content["cluster"]),
                step=StepCost(**content["step"]),
                predictions=tuple(_prediction(one) for one in content["predictions"]),
                recommended=_prediction(content["recommended"]),
            )
        except (KeyError, TypeError) as error:
            raise PersistenceError(f"An explanation cannot be read: {error}") from error

    def __str__(self) -> str:
        """Facts, a table and the paragraph."""
        return "\n".join([*_facts(self), "", *_table(self), "", textwrap.fill(self.why, _WIDTH)])


def _of_one_input(content: Mapping[str, Any]) -> dict[str, Any]:
    """What was written before networks could have several inputs and outputs."""
    shapes = {
        f"{side}_shapes": [content[f"{side}_shape"]]
        for side in ("input", "output")
        if f"{side}_shape" in content
    }
    return {**content, **shapes, "schema": SCHEMA_VERSION}


_PLAIN = (
    "model",
    "weights",
    "variables",
    "backend",
    "workers",
    "memory_bytes_per_worker",
    "why",
)
_SHAPES = ("input_shapes", "output_shapes")


def _prediction_json(one: Prediction) -> dict[str, Any]:
    return {**asdict(one), "step_s": one.step_s, "limit": one.limit}


def _prediction(content: Mapping[str, Any]) -> Prediction:
    derived = ("step_s", "limit")
    return Prediction(**{name: value for name, value in content.items() if name not in derived})


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes))


def _facts(found: Explanation) -> list[str]:
    cluster, work = found.cluster, found.work
    train, held = found.row_counts
    rows = f"{train:,} for training" + (f", {held:,} for validation" if held else "")
    network = "one slot, so not measured"
    if cluster.bytes_per_s is not None and cluster.latency_s is not None:
        network = (
            f"{1e6 * cluster.latency_s:,.0f} us a message, {bytes_text(cluster.bytes_per_s)}/s "
            "between workers"
        )
    lines = {
        "model": f"{found.model}: {found.weights:,} trainable weights in {found.variables} "
        f"variables, rows of {_shapes(found.input_shapes)} to {_shapes(found.output_shapes)}",
        "rows": f"{rows}; batches of {work.batch_size:,} over all workers, {work.epochs:,} epochs",
        "cluster": f"{cluster.slots} slots on {cluster.hosts} hosts with "
        f"{cluster.cores_per_host} cores and {bytes_text(cluster.memory_bytes_per_host)} each",
        "network": network,
        "shuffle": f"{1000 * cluster.stage_s:.1f} ms a stage, "
        f"{bytes_text(cluster.stage_bytes_per_s)}/s a worker",
        "worker": f"about {bytes_text(found.memory_bytes_per_worker)} of memory, "
        f"{bytes_text(work.gradient_bytes)} of gradients a step",
        "asked for": f"{found.backend} with {found.workers} workers",
    }
    width = max(map(len, lines))
    return [f"{name:<{width}}  {text}" for name, text in lines.items()]


def _table(found: Explanation) -> list[str]:
    head = ("", "workers", "ms/step", "s/epoch", "fit s", "sent/step", "limit", "")
    rows = [head]
    for one in sorted(found.predictions, key=lambda one: (one.label, one.workers)):
        rows.append(
            (
                ("> " if one == found.recommended else "  ") + one.label,
                str(one.workers),
                f"{1000 * one.step_s:,.1f}",
                f"{one.epoch_s:,.2f}",
                f"{one.fit_s:,.1f}",
                bytes_text(one.bytes_per_step),
                one.limit,
                _remark(one, found),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    left = (0, 6, 7)
    return [
        "  ".join(
            f"{cell:<{width}}" if i in left else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _remark(one: Prediction, found: Explanation) -> str:
    if one.backend in found.refused:
        return "refused"
    if not one.fits:
        return f"needs {one.workers} slots"
    return ""
