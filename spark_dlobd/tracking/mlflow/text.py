"""What a person reads of a run in MLflow: its name, its description, its parameters. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from spark_dlobd.report import words

NOTE_TAG = "mlflow.note.content"
"""MLflow's tag of a run's description."""

_FIRST = (
    "network.name",
    "network.class",
    "network.weights",
    "network.layers",
    "backend",
    "numTrainWorkers",
    "batchSize",
    "epochs",
    "stopWhen",
    "optimizer",
    "learningRate",
    "loss",
    "metrics",
)


def run_name(params: Mapping[str, Any], tags: Mapping[str, str], began: float) -> str:
    """Name of a run that nobody named.

    Parameters
    ----------
    params, tags : mapping
        Of the fit.
    began : float
        Seconds since 1970; the name has it in local time.

    Examples
    --------
    >>> params = {"network": {"name": "lenet"}, "numTrainWorkers": 2}
    >>> run_name(params, {"backend": "shuffle"}, 0.0)[:25]
    'lenet, shuffle, 2 workers'
    """
    told = [(params.get("network") or {}).get("name"), tags.get("backend")]
    if isinstance(workers := params.get("numTrainWorkers"), int):
        told.append(words.workers_text(workers))
    told.append(datetime.fromtimestamp(began).strftime("%Y-%m-%d %H:%M"))
    return ", ".join(str(part) for part in told if part)


def description(report: Mapping[str, Any], status: str) -> str:
    """Result and limit of a fit in Markdown.

    Parameters
    ----------
    report : mapping
        A `FitReport`.
    status : {"FINISHED", "FAILED", "KILLED"}
        How the fit ended.
    """
    metrics = words.last_metrics(report)
    result = ", ".join(f"{_plain(name)} {words.metric_text(v)}" for name, v in metrics.items())
    ended = f"{status.lower()} after {words.seconds_text(report['total_seconds'])}"
    epochs = len(report["epoch_seconds"])
    told = [f"**{result}**" if result else "", f"{words.count_text(epochs, 'epoch')}, {ended}"]
    network = report.get("network")
    how = [_plain(words.network_text(network))] if network else []
    parts = [
        "; ".join(part for part in told if part) + ".",
        ", ".join([*how, words.how_text(report)]) + ".",
        _plain(report["limit"]["text"]),
        "The whole report is `report.html` among the artifacts.",
    ]
    return "\n\n".join(parts)


def param_texts(params: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as texts: interesting ones first, those without a value left out."""
    given = {name: value for name, value in params.items() if value is not None}
    network = given.pop("network", None) or {}
    given |= {f"network.{name}": value for name, value in network.items() if value is not None}
    if isinstance(layers := given.get("network.layers"), list):
        given["network.layers"] = ", ".join(map(str, layers))
    names = sorted(given, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    return {name: _text(given[name]) for name in names}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _plain(text: str) -> str:
    """Text in which nothing is a sign of Markdown or HTML."""
    return re.sub(r"([\\`*\[\]<>#|~])", r"\\\1", text)
