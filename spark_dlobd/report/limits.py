"""Says in words what limits a fit and what to change. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spark_dlobd.report.schema import Limit, Parts, RankSeconds

By = Literal["start-up", "input", "compute", "synchronization", "stragglers", "unknown"]


@dataclass(frozen=True)
class Facts:
    """What the verdict is computed from.

    Attributes
    ----------
    backend : str
        Name of the backend.
    workers : int
        Number of workers.
    total_seconds : float
        The whole fit.
    seconds : dict of str to float
        By phase.
    before_training : float
        Seconds before the first step.
    training_seconds : float
        All training steps.
    shares : Parts
        Shares of the training steps' time.
    tracing : float
        Seconds of the first call beyond a usual one.
    bytes_sent_per_step : float or None
        By one worker.
    ranks : tuple of RankSeconds
        For stragglers.
    """

    backend: str
    workers: int
    total_seconds: float
    seconds: dict[str, float]
    before_training: float
    training_seconds: float
    shares: Parts
    tracing: float = 0.0
    bytes_sent_per_step: float | None = None
    ranks: tuple[RankSeconds, ...] = ()


def limit_of(facts: Facts) -> Limit:
    """Name the largest part and what would make it smaller.

    Start-up limits a fit that spends more than half of its time before its first step
    or on tracing it. Otherwise it is the largest of: input, compute, synchronization
    (communication and Spark between steps) and waiting for slower workers.

    Parameters
    ----------
    facts : Facts
        Of one fit.
    """
    start_up = facts.before_training + facts.tracing
    if facts.total_seconds > 0 and start_up > facts.total_seconds / 2:
        return Limit(by="start-up", text=_start_up(facts, start_up))
    by = _largest(facts.shares)
    words = {
        "input": _input,
        "compute": _compute,
        "synchronization": _synchronization,
        "stragglers": _stragglers,
        "unknown": _unknown,
    }[by]
    return Limit(by=by, text=words(facts))


def _largest(shares: Parts) -> By:
    if shares["input"] is None and shares["compute"] is None:
        return "unknown"
    if shares["compute"] is None or shares["communication"] is None or shares["waiting"] is None:
        # the parts that were not told apart could be larger than less than half
        return "input" if (shares["input"] or 0.0) > 0.5 else "unknown"
    candidates: dict[By, float] = {
        "compute": shares["compute"],
        "input": shares["input"] or 0.0,
        "synchronization": shares["communication"] + (shares["spark"] or 0.0),
        "stragglers": shares["waiting"],
    }
    return max(candidates, key=lambda name: candidates[name])


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0.0):.0f} %"


def _spent(facts: Facts) -> str:
    shares = facts.shares
    parts = {
        "waiting for rows": shares["input"],
        "computing": shares["compute"],
        "exchanging gradients": shares["communication"],
        "waiting for slower workers": shares["waiting"],
        "Spark's scheduling and shuffle": shares["spark"],
        "tracing the step": shares["start_up"],
    }
    told = [f"{_percent(share)} {name}" for name, share in parts.items() if (share or 0) >= 0.005]
    return f"The training steps took {facts.training_seconds:.1f} s: {', '.join(told)}."


def _start_up(facts: Facts, start_up: float) -> str:
    names = {
        "prepare": "checking and importing on the driver",
        "materialize": "writing the rows",
        "start": "starting the workers",
    }
    costs = {name: facts.seconds.get(key, 0.0) for key, name in names.items()}
    costs["tracing the first step"] = facts.tracing
    told = [f"{name} {cost:.1f} s" for name, cost in costs.items() if cost >= 0.05]
    advice = {
        names["materialize"]: "Fit several models inside reuse_data() so that rows are written "
        "once, store narrow types such as uint8 pixels, or give the session more cores.",
        names["start"]: "A model this small trains sooner with fewer workers or backend='local'.",
    }
    most = max(costs, key=lambda name: costs[name])
    return (
        f"Start-up limits this fit: {_percent(start_up / facts.total_seconds)} of its "
        f"{facts.total_seconds:.1f} s went by before steps ran at full speed ({', '.join(told)}). "
        "It is paid once: more epochs or more rows pay it back. "
        + advice.get(most, "A second fit in the same session starts faster.")
    )


def _input(facts: Facts) -> str:
    return (
        f"Input limits this fit. {_spent(facts)} Put cacheDir on faster or nearer storage, store "
        "narrow types (uint8 pixels, scaled in the model) and give a task a second core for its "
        "reading thread (spark.task.cpus). More computing power changes nothing."
    )


def _compute(facts: Facts) -> str:
    if facts.backend == "local" and facts.workers > 1:
        advice = (
            "backend='local' computes its workers one after another: backend='horovod' runs them "
            "at the same time."
        )
    else:
        advice = (
            "Add workers (numTrainWorkers) as long as their slices of batchSize stay large enough "
            "to keep the cores busy, or use GPUs, mixed precision or jit_compile=True."
        )
    return f"Compute limits this fit, which is what one wants. {_spent(facts)} {advice}"


_LESS_TRAFFIC = {
    "collective": "compression='bf16' or 'fp16', gradient_accumulation_steps, or backend='horovod'",
    "horovod": "compression='bf16' or 'fp16', gradient_accumulation_steps, or a faster transport "
    "(controller='mpi' with shared memory, UCX or RDMA)",
    "shuffle": "wire='bf16', sync_every above 1, or backend='horovod' where executors may open "
    "connections",
    "parameter_server": "more steps_per_call, or backend='horovod'",
}


def _synchronization(facts: Facts) -> str:
    sent = ""
    if facts.bytes_sent_per_step is not None:
        sent = f" Each worker sends {facts.bytes_sent_per_step / 1e6:.2f} MB a step."
    advice = _LESS_TRAFFIC.get(facts.backend, "fewer synchronizations")
    return (
        f"Synchronization limits this fit. {_spent(facts)}{sent} A larger batchSize means fewer "
        f"synchronizations an epoch; other ways are {advice}. With fewer workers the same "
        "epoch may be faster."
    )


def _stragglers(facts: Facts) -> str:
    busy = {rank["rank"]: (rank["input"] or 0.0) + (rank["compute"] or 0.0) for rank in facts.ranks}
    slowest = ""
    if busy:
        rank = max(busy, key=lambda name: busy[name])
        mean = sum(busy.values()) / len(busy)
        slowest = (
            f" Rank {rank} needed {busy[rank]:.1f} s for reading and computing, the mean is "
            f"{mean:.1f} s."
        )
    return (
        f"Stragglers limit this fit: workers wait for slower ones. {_spent(facts)}{slowest} Look "
        "for a host that is busy, throttled or has fewer cores, and for ranks that share cores; "
        "where hosts differ, backend='parameter_server' lets a slow worker do less."
    )


def _unknown(facts: Facts) -> str:
    return (
        f"What limits this fit is not known: backend={facts.backend!r} could not measure all parts "
        f"here. {_spent(facts)}"
        if facts.training_seconds > 0
        else "What limits this fit is not known: it did not finish an epoch."
    )
