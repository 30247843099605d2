"""What is said after a fit: its results in some sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from spark_dlobd.report.words import count_text, workers_text


def last_words(
    report: Mapping[str, Any],
    history: Mapping[str, Sequence[float]],
    epochs: int,
    seconds: float,
) -> list[str]:
    """Return what a fit came to: metrics, what limits it, and what trained. Pure.

    Parameters
    ----------
    report : mapping
        Of the fit; what it lacks is left out.
    history : mapping of str to list of float
        Metrics by epoch.
    epochs : int
        That were asked for.
    seconds : float
        Of the whole fit.

    Examples
    --------
    >>> report = {"backend": "local", "workers": 1, "backend_reason": "chosen by the user"}
    >>> for sentence in last_words(report, {"loss": [0.5, 0.25], "val_loss": [1, 2]}, 3, 4.2):
    ...     print(sentence)
    Trained 2 of 3 epochs in 4.2 s: loss 0.2500, val_loss 2.0000.
    Backend local, 1 worker (chosen by the user).
    """
    done = max((len(values) for values in history.values()), default=0)
    count = f"{done} of " if done != epochs else ""
    metrics = ", ".join(f"{name} {_number(values[-1])}" for name, values in history.items())
    told = [f"Trained {count}{count_text(epochs, 'epoch')} in {seconds:.1f} s: {metrics}."]
    if limit := report.get("limit"):
        told.append(_first_sentence(limit["text"]))
    told.append(
        f"Backend {report['backend']}, {workers_text(report['workers'])} "
        f"({report['backend_reason']})."
    )
    return told


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) > 1e-3 else f"{value:.4e}"


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s+(?=[A-Z])", text, maxsplit=1)[0]
