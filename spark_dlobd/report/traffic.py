"""Bytes that synchronizations send, from the number of weights. Pure."""

from __future__ import annotations


def allreduce_bytes(payload: int, workers: int, steps_per_update: int = 1) -> float:
    """Bytes that one worker sends in a step, on average over steps.

    ``2 (N - 1) / N`` of what is reduced, for a ring allreduce (Patarasuk and Yuan,
    "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009) and
    equally for slices that are sent to their owners and come back updated (Dai et al.,
    "BigDL: A Distributed Deep Learning Framework for Big Data", SoCC 2019).

    Parameters
    ----------
    payload : int
        Bytes of all gradients as they travel.
    workers : int
        N; one worker sends nothing.
    steps_per_update : int, default 1
        Steps between two synchronizations.

    Examples
    --------
    >>> allreduce_bytes(4 * 431_080, workers=2)
    1724320.0
    """
    return 2 * payload * (workers - 1) / workers / steps_per_update


def wire_bytes(weights: int, gradient_bytes: int, compression: str | None) -> int:
    """Bytes of all gradients as Horovod sends them: ``"fp16"`` and ``"bf16"`` take two each."""
    return gradient_bytes if compression is None else 2 * weights
