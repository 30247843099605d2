"""What a notebook shows of a model or an estimator, and their one-line descriptions.

Runs on the driver. Self-contained HTML in the colours of the notebook, light or dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spark_dlobd.job.network import Network, OutputSpec
from spark_dlobd.report import pieces, words
from spark_dlobd.report.facts import fact_rows
from spark_dlobd.report.network import network_facts
from spark_dlobd.report.pages import render
from spark_dlobd.report.pieces import Head


def model_repr(model: Any, network: Network | None) -> str:
    """One line on a `DLModel`: network, task, how it was trained and with which result."""
    if network is None:
        return f"DLModel(uid={model.uid!r}, no network)"
    told = [words.network_text(_facts(network)), _task(model)]
    report = model.report
    if report.get("backend"):
        told.append(f"trained with {words.how_text(report)}")
    told += [f"{name} {words.metric_text(v)}" for name, v in words.last_metrics(report).items()]
    return f"DLModel({', '.join(told)})"


def model_html(model: Any, network: Network | None) -> str:
    """A `DLModel` with curves, facts and what limited its fit, as far as they are known."""
    report = dict(model.report)
    facts = _facts(network)
    whole = "total_seconds" in report
    if facts:
        report["network"] = facts
    if not facts:
        advice = "DLEstimator.fit(df) returns one that has a network; setModel() gives it one."
        return _view(Head("DLModel without a network", advice))
    rows = [("task", _task(model)), *fact_rows(report)]
    if whole:
        return _view(pieces.report_head(report, kind="DLModel"), rows, report)
    trained = words.how_text(report) if report.get("backend") else "not trained here"
    return _view(Head(f"DLModel: {words.network_text(facts)}", trained), rows)


def estimator_repr(estimator: Any, network: Network | None) -> str:
    """One line on a `DLEstimator`: network and how it would be trained."""
    told = [f"{name}={value!r}" for name, value in _settings(estimator).items()]
    return f"DLEstimator({', '.join([_network_of(network), *told])})"


def estimator_html(estimator: Any, network: Network | None) -> str:
    """A `DLEstimator` with its network and every Param that was set."""
    facts = _facts(network)
    rows = [("layers", ", ".join(facts["layers"]))] if facts.get("layers") else []
    rows += [
        (param.name, words.fact_text(value))
        for param, value in sorted(estimator._paramMap.items(), key=lambda item: item[0].name)
        if value is not None
    ]
    told = ", ".join(f"{name} {value}" for name, value in _settings(estimator).items())
    return _view(Head(f"DLEstimator: {_network_of(network)}", told), rows)


def _network_of(network: Network | None) -> str:
    facts = _facts(network)
    return words.network_text(facts) if facts else "no network"


def _settings(estimator: Any) -> dict[str, Any]:
    names = ("backend", "numTrainWorkers", "epochs", "batchSize")
    values = {name: estimator.getOrDefault(name) for name in names}
    if isinstance(values["backend"], dict):
        values["backend"] = values["backend"]["name"]
    return values


def _facts(network: Network | None) -> dict[str, Any]:
    return network_facts(None if network is None else network.archive)


def _task(model: Any) -> str:
    """What goes in and comes out."""
    fitted = model.fitted()
    shapes = ("x".join(map(str, one.shape)) or "scalar" for one in fitted.inputs)
    given = (f"{shape} {one.dtype}" for shape, one in zip(shapes, fitted.inputs, strict=True))
    return f"{', '.join(map(_meaning, fitted.specs))} from {', '.join(given)}"


def _meaning(output: OutputSpec) -> str:
    if output.problem == "regression":
        several = f" of {output.units} outputs" if output.units > 1 else ""
        return f"regression{several}"
    if output.problem == "multilabel":
        return f"{output.units} labels"
    if output.positions:
        return f"{output.shape[-1]} classes at {'x'.join(map(str, output.positions))} positions"
    return f"{2 if output.problem == 'binary' else output.units} classes"


def _view(
    head: Head, rows: Sequence[tuple[str, str]] = (), report: Mapping[str, Any] | None = None
) -> str:
    """Facts are folded below what a report has."""
    return render(
        "spark_dlobd.report/notebook.html.j2",
        head=head,
        limit=pieces.limit_text(report) if report else "",
        curves=pieces.curves(report) if report else [],
        facts=rows,
        folded=report is not None,
    )
