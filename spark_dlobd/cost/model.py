"""Predicted seconds of a fit for every backend and number of workers. Pure.

With K weights of b bytes on the wire, N workers, a global batch of B rows, S steps an epoch,
``compute(n, k)`` for a step of n rows where k workers share a host, and ``copy(c)`` for c
copies of K b bytes within memory:

- local: N virtual workers one after the other, ``N driver(B/N)`` a step.
- horovod: ``compute(B/N, k) + cycle + negotiation + 2 (N-1) latency + 2 (N-1)/N K b / bandwidth
  + copy(4)``.
  The ring allreduce is that of Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms
  for clusters of workstations" (2009), its latency term that of Thakur, Rabenseifner and
  Gropp, "Optimization of collective communication operations in MPICH" (2005). Horovod looks
  for gradients once a cycle and asks whether all ranks have them; it copies them into its
  buffer, scales and adds them there, and copies them out. Its own thread takes part of a core.
- shuffle: ``sync_every compute(B/N, k) + 2 stage + 2 K b / stage rate + copy(6 + 3/N)`` for
  a synchronization, and a job's cost once in some of them. The algorithm is BigDL's (Dai et
  al., "BigDL: A Distributed Deep Learning Framework for Big Data", SoCC 2019): each worker
  sends ``2 K b (N-1)/N`` bytes over the network, but K b of them pass Python's and the JVM's
  sockets in either stage. The stage rate was measured with both in it. Copies are those that
  tasks make around it: weights joined and assigned (3), the gradient joined and packed (2),
  slices added (1), and a slice's state written (3/N). With fewer slots than workers the
  workers take turns.
- parameter_server: each step takes B rows of one worker, and N steps run at once:
  ``(compute(B, k) + 2 K b / bandwidth + copy(4)) / N``, but no less than the servers need for
  their links, ``2 K b / (servers bandwidth)``; then what is not done at the same time: the
  servers' update, ``copy(7) / servers``, and the coordinator's work for steps and calls.

compute is linear in the rows, through two sizes that were timed; where workers share a host
it grows by the factor that was measured with as many at once. An epoch, in the sense of
`report.epochs`, also opens its files and merges its metrics. What a fit may take before
anything was probed is a matter of `backends.guess`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spark_dlobd.backends.shuffle.spark.job_length import JobLength
from spark_dlobd.cost.measured import ClusterCost, StepCost
from spark_dlobd.processes.mpirun import mpi_problem
from spark_dlobd.report.traffic import allreduce_bytes

ALLREDUCE_COPIES = 4
# TensorFlow's ring packs tensors into messages of gRPC: measured beside Gloo on one host, two
# ranks, 28 MB in 72 to 79 ms where Gloo takes 27 to 31.
RING_COPIES = 11
SHUFFLE_COPIES = 6
SLICE_STATE_COPIES = 3
SERVER_CLIENT_COPIES = 4
SERVER_UPDATE_COPIES = 7
# Fitted to benchmarks/parameter_server_steps_per_call.py on two cores with a model of no
# weight: 17.4 ms a step at 1 step a call, 2.04 ms at 32; the four sizes between them were
# predicted within 25 %.
SERVER_CALL_S = 15.8e-3
SERVER_STEP_S = 1.55e-3
# Fitted to examples/characterize.yaml on two cores, SoftMax Regression first, where a step
# is 1 ms: what an epoch takes longer than its steps, what ranks need to agree on a step, and
# how much longer a step takes where Horovod's threads and the steps share all cores.
EPOCH_S = 0.025
NEGOTIATION_S = {"gloo": 3e-3, "mpi": 0.2e-3, "mpi4py": 0.4e-3, "ring": 2e-3}
HOROVOD_CONTENTION = 1.15
# Also from there: the JVM compiles on while a fit runs its stages, so they get faster than
# the probe's; and steps of a parameter server's worker are one graph, without Keras's loop.
STAGE_COMPILED = 0.75
SERVER_COMPUTE = 0.85
# Of a stage on a host with all cores at work, what is left with one task alone on many cores:
# the rest is one core's, the driver's among it.
STAGE_ALONE = 0.7
# Spark's tasks ask each second whether all of them are there.
BARRIER_S = 1.0


@dataclass(frozen=True)
class Workload:
    """What is to be trained, as far as its cost depends on it.

    Attributes
    ----------
    rows : int
        Training rows.
    batch_size : int
        Rows of a step over all workers.
    epochs : int
        Passes over the rows.
    weights : int
        Trainable weights.
    gradient_bytes : int
        Of one worker's gradients, uncompressed.
    row_bytes : int
        Of one row as it is stored.
    """

    rows: int
    batch_size: int
    epochs: int
    weights: int
    gradient_bytes: int
    row_bytes: int


@dataclass(frozen=True)
class Way:
    """A backend with the options that its cost depends on.

    Attributes
    ----------
    backend : str
        Its name.
    label : str
        What tables call it.
    bytes_per_weight : float or None
        On the wire; None is the weights' own.
    sync_every : int
        Steps between two synchronizations.
    servers : int
        Of parameter servers.
    steps_per_call : int or None
        Of parameter servers; None is their own choice.
    cycle_s : float
        Horovod's.
    negotiation_s : float
        Until ranks know that all have the gradients of a step.
    copies : float
        Of an allreduce's bytes within memory.
    iterations_per_job : int or None
        Of the shuffle; None is its own choice.
    within_memory : bool
        Whether bytes pass shared memory instead of TCP; on one host only.
    """

    backend: str
    label: str
    bytes_per_weight: float | None = None
    sync_every: int = 1
    servers: int = 1
    steps_per_call: int | None = None
    cycle_s: float = 1e-3
    negotiation_s: float = NEGOTIATION_S["gloo"]
    copies: float = ALLREDUCE_COPIES
    iterations_per_job: int | None = None
    within_memory: bool = False


_HALF = {"fp16": 2.0, "bf16": 2.0}


def way_of(param: str | Mapping[str, Any]) -> Way | None:
    """Way of what the Param ``backend`` holds; None for a backend that has no formula.

    Examples
    --------
    >>> way_of({"name": "shuffle", "sync_every": 10}).label
    'shuffle, every 10 steps'
    >>> way_of({"name": "horovod", "compression": "bf16"}).bytes_per_weight
    2.0
    """
    options: dict[str, Any] = {"name": param} if isinstance(param, str) else dict(param)
    name = options["name"]
    if name == "horovod":
        return _horovod(options)
    if name == "collective":
        return _collective(options)
    if name == "shuffle":
        every = options.get("sync_every", 1)
        wire = _HALF.get(options.get("wire", "fp32"), 4.0)
        return Way(
            name,
            name if every == 1 else f"{name}, every {every} steps",
            bytes_per_weight=wire,
            sync_every=every,
            iterations_per_job=options.get("iterations_per_job"),
        )
    if name == "parameter_server":
        return Way(
            name,
            name,
            servers=options.get("num_ps", 1),
            steps_per_call=options.get("steps_per_call"),
        )
    return Way(name, name) if name == "local" else None


def _collective(options: Mapping[str, Any]) -> Way:
    """MPI or TensorFlow's ring; without a word on it the one that would be taken here."""
    transport = options.get("transport") or ("ring" if mpi_problem() else "mpi")
    over = options.get("mpi_transport")
    ring = transport == "ring"
    return Way(
        "collective",
        f"collective, {transport}" + (f" over {over}" if over else ""),
        bytes_per_weight=_HALF.get(str(options.get("compression"))),
        sync_every=options.get("gradient_accumulation_steps", 1),
        cycle_s=0.0,
        negotiation_s=NEGOTIATION_S["ring" if ring else "mpi4py"],
        copies=RING_COPIES if ring else ALLREDUCE_COPIES,
        within_memory=over == "sm",
    )


def _horovod(options: Mapping[str, Any]) -> Way:
    controller = options.get("controller", "gloo")
    transport = options.get("transport")
    shared = controller == "mpi" and (
        transport == "sm" or (transport == "ucx" and "sm" in str(options.get("ucx_tls")))
    )
    label = f"horovod, {controller}" + (f" over {transport}" if transport else "")
    return Way(
        "horovod",
        label,
        bytes_per_weight=_HALF.get(str(options.get("compression"))),
        sync_every=options.get("gradient_accumulation_steps", 1),
        cycle_s=options.get("cycle_time_ms", 1.0) / 1000,
        negotiation_s=NEGOTIATION_S[controller],
        within_memory=shared,
    )


@dataclass(frozen=True)
class Prediction:
    """What a fit would take.

    Attributes
    ----------
    backend, label : str
        The way gradients travel.
    workers : int
        How many.
    steps_per_epoch : int
        Steps, each of the global batch.
    compute_s, synchronization_s : float
        Seconds of a step for either.
    epoch_s : float
        Seconds of an epoch after the first; validation is left out.
    start_s : float
        Before the first step, and tracing it.
    fit_s : float
        All epochs and the start; writing the rows is left out, it is the same for all.
    bytes_per_step : float
        What one worker sends, on average over steps.
    fits : bool
        Whether there are enough slots.
    """

    backend: str
    label: str
    workers: int
    steps_per_epoch: int
    compute_s: float
    synchronization_s: float
    epoch_s: float
    start_s: float
    fit_s: float
    bytes_per_step: float
    fits: bool

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return self.epoch_s / self.steps_per_epoch

    @property
    def limit(self) -> str:
        """What takes most of a step."""
        return "compute" if self.compute_s >= self.synchronization_s else "synchronization"


def steps_per_epoch(rows: int, batch_size: int, workers: int) -> int:
    """Steps as the shard plan counts them.

    Examples
    --------
    >>> steps_per_epoch(257, 128, 1), steps_per_epoch(257, 128, 2)
    (3, 2)
    """
    from spark_dlobd.job.plan import ShardPlan

    return ShardPlan((rows,), workers, batch_size, 0).steps_per_epoch


def compute_seconds(step: StepCost, rows: float, per_host: int, cores: int, threads: int) -> float:
    """Seconds of a step of `rows` rows of a worker that shares its host.

    Parameters
    ----------
    step : StepCost
        What was timed.
    rows : float
        Of this worker.
    per_host : int
        Workers on its host, itself included.
    cores : int
        Of the host.
    threads : int
        Of each worker.
    """
    return _linear(step, rows) * _sharing(step, per_host, cores, threads)


def _linear(step: StepCost, rows: float) -> float:
    """One process at work: a line through two sizes, never below the origin."""
    if step.full_rows == step.rows:
        return step.full_seconds
    slope = (step.full_seconds - step.alone_seconds) / (step.full_rows - step.rows)
    slope = min(max(slope, 0.0), step.full_seconds / step.full_rows)
    return step.full_seconds + slope * (rows - step.full_rows)


def _sharing(step: StepCost, per_host: int, cores: int, threads: int) -> float:
    """How much slower a worker is with others on its host."""
    if per_host <= 1:
        return 1.0
    measured = max(step.seconds / step.alone_seconds, 1.0)
    if step.workers_per_host > 1:
        factor = 1 + (measured - 1) * (per_host - 1) / (step.workers_per_host - 1)
    else:
        factor = 1.0
    # what was not measured: cores are shared out
    if per_host > step.workers_per_host:
        factor = max(factor, per_host * threads / cores)
    return factor


def allreduce_seconds(payload: float, workers: int, cluster: ClusterCost, way: Way) -> float:
    """An allreduce's share of a step; see the module.

    Examples
    --------
    >>> cluster = ClusterCost(2, 1, 2, 1, 0, 2, 1e-4, 1e9, 5e9, 0.03, 1e8, 0.1)
    >>> round(1000 * allreduce_seconds(28e6, 2, cluster, Way("horovod", "")), 1)
    54.6
    """
    if workers == 1:
        return 0.0
    latency, rate = cluster.latency_s or 0.0, cluster.bytes_per_s or cluster.copy_bytes_per_s
    if way.within_memory:
        latency, rate = 0.0, cluster.copy_bytes_per_s
    moved = allreduce_bytes(int(payload), workers) / rate
    copied = way.copies * payload / cluster.copy_bytes_per_s
    return way.cycle_s + way.negotiation_s + 2 * (workers - 1) * latency + moved + copied


def shuffle_seconds(payload: float, workers: int, cluster: ClusterCost) -> float:
    """One synchronization through Spark's shuffle, its job left out; see the module.

    Examples
    --------
    >>> cluster = ClusterCost(2, 1, 2, 1, 0, 2, 1e-4, 1e9, 5e9, 0.03, 1e8, 0.1)
    >>> round(shuffle_seconds(1e8, 2, cluster), 3)  # 0.045 + 2 + 0.15
    2.195
    """
    sharing = _stage_load(workers, cluster) / _stage_load(cluster.workers, cluster)
    copies = SHUFFLE_COPIES + SLICE_STATE_COPIES / workers
    copied = copies * payload / cluster.copy_bytes_per_s
    stages = 2 * STAGE_COMPILED * cluster.stage_s + 2 * payload / cluster.stage_bytes_per_s
    return sharing * stages + copied


def _stage_load(workers: int, cluster: ClusterCost) -> float:
    """How much longer a stage takes than one whose tasks have all cores of their host."""
    load = cluster.workers_per_host(workers) / cluster.cores_per_host
    return max(STAGE_ALONE + (1 - STAGE_ALONE) * load, load)


def predict(
    way: Way, workers: int, work: Workload, cluster: ClusterCost, step: StepCost
) -> Prediction:
    """Predict a fit.

    Parameters
    ----------
    way : Way
        How gradients travel.
    workers : int
        How many.
    work : Workload
        What is trained.
    cluster : ClusterCost
        Where.
    step : StepCost
        Seconds of a step there.
    """
    formula = {
        "local": _local,
        "collective": _allreduce,
        "horovod": _allreduce,
        "shuffle": _shuffle,
        "parameter_server": _servers,
    }[way.backend]
    parts = formula(way, workers, work, cluster, step)
    steps = parts.steps
    epoch = EPOCH_S + steps * (parts.compute + parts.synchronization)
    start = start_seconds(way, workers, cluster, step)
    needs_slots = way.backend in ("collective", "horovod", "parameter_server")
    return Prediction(
        backend=way.backend,
        label=way.label,
        workers=workers,
        steps_per_epoch=steps,
        compute_s=parts.compute,
        synchronization_s=parts.synchronization,
        epoch_s=epoch,
        start_s=start,
        fit_s=start + work.epochs * epoch,
        bytes_per_step=parts.bytes,
        fits=not needs_slots or workers <= cluster.slots,
    )


@dataclass(frozen=True)
class _Parts:
    """Of one step."""

    steps: int
    compute: float
    synchronization: float
    bytes: float


def _payload(way: Way, work: Workload) -> float:
    if way.bytes_per_weight is None:
        return work.gradient_bytes
    return way.bytes_per_weight * work.weights


def _compute(rows: float, workers: int, cluster: ClusterCost, step: StepCost) -> float:
    return compute_seconds(
        step,
        rows,
        cluster.workers_per_host(workers),
        cluster.cores_per_host,
        cluster.cores_per_task,
    )


def _local(way: Way, workers: int, work: Workload, cluster: ClusterCost, step: StepCost) -> _Parts:
    rows = work.batch_size / workers
    of_driver = step.driver_seconds * _linear(step, rows) / step.full_seconds
    steps = steps_per_epoch(work.rows, work.batch_size, workers)
    return _Parts(steps, workers * of_driver, 0.0, 0.0)


def _allreduce(
    way: Way, workers: int, work: Workload, cluster: ClusterCost, step: StepCost
) -> _Parts:
    payload = _payload(way, work)
    steps = steps_per_epoch(work.rows, work.batch_size, workers)
    compute = _compute(work.batch_size / workers, workers, cluster, step)
    busy = cluster.workers_per_host(workers) * cluster.cores_per_task >= cluster.cores_per_host
    if workers > 1 and busy:
        compute *= HOROVOD_CONTENTION
    seconds = allreduce_seconds(payload, workers, cluster, way) / way.sync_every
    sent = allreduce_bytes(int(payload), workers, way.sync_every)
    return _Parts(steps, compute, seconds, sent)


def _shuffle(
    way: Way, workers: int, work: Workload, cluster: ClusterCost, step: StepCost
) -> _Parts:
    payload = _payload(way, work)
    steps = steps_per_epoch(work.rows, work.batch_size, workers)
    turns = math.ceil(workers / cluster.slots)
    compute = turns * _compute(work.batch_size / workers, workers, cluster, step)
    seconds = shuffle_step_seconds(payload, workers, steps, cluster, way, compute)
    sent = allreduce_bytes(int(payload), workers, way.sync_every)
    return _Parts(steps, compute, seconds, sent)


def shuffle_step_seconds(
    payload: float,
    workers: int,
    steps: int,
    cluster: ClusterCost,
    way: Way,
    compute_s: float = 0.0,
) -> float:
    """Seconds that the shuffle adds to a step of an epoch of `steps`, its jobs included.

    Parameters
    ----------
    payload : float
        Bytes of all weights on the wire.
    workers, steps : int
        Workers, and steps of an epoch.
    cluster : ClusterCost
        Where.
    way : Way
        Options of the shuffle.
    compute_s : float
        Of a step; jobs with longer steps hold fewer.
    """
    seconds = math.ceil(workers / cluster.slots) * shuffle_seconds(payload, workers, cluster)
    synchronizations = math.ceil(steps / way.sync_every)
    each = way.sync_every * compute_s + seconds
    jobs = math.ceil(synchronizations / job_length(way.iterations_per_job, payload, each))
    return (synchronizations * seconds + jobs * cluster.job_s) / steps


def job_length(fixed: int | None, payload: float, seconds: float) -> int:
    """Synchronizations of a job, once it has learned how long one takes."""
    length = JobLength(fixed, int(2 * payload))
    for _ in range(8):
        length.took(seconds * length.next, length.next)
    return length.next


def _servers(
    way: Way, workers: int, work: Workload, cluster: ClusterCost, step: StepCost
) -> _Parts:
    payload = _payload(way, work)
    steps = steps_per_epoch(work.rows, work.batch_size, 1)
    rate = cluster.bytes_per_s or cluster.copy_bytes_per_s
    compute = SERVER_COMPUTE * _compute(work.batch_size, workers, cluster, step)
    moved = 2 * payload / rate + SERVER_CLIENT_COPIES * payload / cluster.copy_bytes_per_s
    at_once = max((compute + moved) / workers, 2 * payload / (way.servers * rate))
    update = SERVER_UPDATE_COPIES * payload / cluster.copy_bytes_per_s / way.servers
    call = SERVER_CALL_S / (way.steps_per_call or server_steps_per_call(work, steps, workers))
    total = at_once + update + SERVER_STEP_S + call
    own = compute / workers
    return _Parts(steps, own, total - own, 2 * payload / workers)


def server_steps_per_call(work: Workload, steps: int, workers: int) -> int:
    """Steps that parameter servers put into one call by themselves."""
    from spark_dlobd.backends.parameter_server.chunks import steps_per_call

    return steps_per_call(work.row_bytes, work.batch_size, steps, workers)


def start_seconds(way: Way, workers: int, cluster: ClusterCost, step: StepCost) -> float:
    """Before the first step, and what that takes longer.

    Importing TensorFlow and building the model was timed with as many processes at once as
    workers were probed; further ones on the same cores take their turn.
    """
    if way.backend == "local":
        return step.tracing_s
    processes = workers
    if way.backend == "parameter_server":
        processes += way.servers + 1
    share = max(1.0, math.ceil(processes / cluster.hosts) / cluster.cores_per_host)
    share /= max(1.0, step.workers_per_host / cluster.cores_per_host)
    ready = step.ready_s * share
    if way.backend == "shuffle":
        # the driver traces the step first, to learn the layout of the weights
        return ready + 2 * step.tracing_s + cluster.job_s + cluster.stage_s
    return ready + BARRIER_S + step.tracing_s
