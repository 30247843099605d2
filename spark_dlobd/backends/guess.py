"""Seconds of a training before anything of it was measured. Pure.

A rough guess, which tells minutes from hours: `workers` chooses by it, and the estimate of a
sweep begins with it. What a fit will take on a cluster that was probed `cost.model` predicts.
"""

from __future__ import annotations

from spark_dlobd.report.traffic import allreduce_bytes

FLOPS_PER_CORE = 2e10
BYTES_PER_S = 1e9
STEP_S = {
    "local": 0.0,
    "horovod": 0.003,
    "collective": 0.004,
    "parameter_server": 0.01,
    "shuffle": 0.05,
}
"""Of a step, for other things than computing and sending."""


def computing_seconds(multiply_adds: int, rows: int, cores: int) -> float:
    """Of training steps on `rows` rows in all.

    Parameters
    ----------
    multiply_adds : int
        Of the forward pass of one row; with the backward pass it is three of them.
    rows : int
        Rows, those of all epochs.
    cores : int
        That work at once.

    Examples
    --------
    >>> computing_seconds(10_000_000, rows=1000, cores=1)
    3.0
    """
    return 6 * multiply_adds * rows / (cores * FLOPS_PER_CORE)


def step_seconds(
    backend: str, workers: int, payload: float, bytes_per_s: float = BYTES_PER_S
) -> float:
    """Of a step, without its computing.

    Parameters
    ----------
    backend : str
        One that is not known counts as Horovod.
    workers : int
        How many; one sends nothing.
    payload : float
        Bytes of all gradients as they travel.
    bytes_per_s : float
        Of a worker's link. Weights and gradients of parameter servers pass it one after
        the other, those of an allreduce or of the shuffle as `allreduce_bytes` counts them.
    """
    waiting = STEP_S.get(backend, STEP_S["horovod"])
    if workers == 1 or backend == "local":
        return waiting
    servers = backend == "parameter_server"
    sent = 2 * payload if servers else allreduce_bytes(int(payload), workers)
    return waiting + sent / bytes_per_s
