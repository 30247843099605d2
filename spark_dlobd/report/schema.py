"""The one schema of ``DLModel.report``, the same for every backend."""

from __future__ import annotations

from typing import Any, TypedDict

SCHEMA_VERSION = 1


class Parts(TypedDict):
    """One number a part of the time; None where the backend cannot measure it.

    The parts of the training steps are means over ranks and add up to the whole.

    Attributes
    ----------
    input : float or None
        Waiting for the next batch.
    compute : float or None
        Forward pass, backward pass, update and callbacks: what is left of a step.
    communication : float or None
        Moving gradients and weights between workers that are ready for it.
    waiting : float or None
        Waiting for slower workers before they are ready.
    spark : float or None
        Spark at work: scheduling, shuffle files and, of a whole fit, writing the rows.
    start_up : float or None
        Before the first step (imports, building the model, meeting), and tracing it.
    other : float or None
        The rest: of a whole fit validation, and collecting the model.
    """

    input: float | None
    compute: float | None
    communication: float | None
    waiting: float | None
    spark: float | None
    start_up: float | None
    other: float | None


class RankSeconds(TypedDict):
    """Seconds of one rank's training steps; as `Parts`."""

    rank: int
    input: float | None
    compute: float | None
    communication: float | None
    waiting: float | None


class Utilization(TypedDict, total=False):
    """What one rank's process and host did, at most 600 points in time.

    A point is the mean since the one before. Lists are equally long; those about GPUs
    are only there where the rank has some.

    Attributes
    ----------
    rank : int
        Whose.
    seconds : list of float
        Since the fit began, on the driver's clock if the hosts' clocks agree.
    cpu_percent : list of float
        Of the rank's own process; 100 is one core.
    rss_bytes : list of float
        Memory of that process.
    sent_bytes_per_s, received_bytes_per_s : list of float
        Of the rank's whole host (its network namespace), all interfaces, loopback included.
    gpu_percent, gpu_memory_bytes : list of float
        Mean load and summed memory of the GPUs that the rank sees.
    """

    rank: int
    seconds: list[float]
    cpu_percent: list[float]
    rss_bytes: list[float]
    sent_bytes_per_s: list[float]
    received_bytes_per_s: list[float]
    gpu_percent: list[float]
    gpu_memory_bytes: list[float]


class AccuracyReached(TypedDict):
    """When an accuracy was first reached, seen at ends of epochs.

    Attributes
    ----------
    metric : str or None
        Which metric: an accuracy of the validation rows, else of the training rows.
    seconds : dict of str to float
        Accuracy (``"0.95"``) to seconds since the fit began; only those reached.
    """

    metric: str | None
    seconds: dict[str, float]


class Limit(TypedDict):
    """What limits a fit.

    Attributes
    ----------
    by : str
        ``"start-up"``, ``"input"``, ``"compute"``, ``"synchronization"``, ``"stragglers"``
        or ``"unknown"``.
    text : str
        One paragraph: why, and what to change.
    """

    by: str
    text: str


class Measurements(TypedDict):
    """What every report has, also that of a fit that failed.

    Attributes
    ----------
    schema : int
        Version of this schema.
    backend, backend_reason : str
        What trained, and why it was chosen.
    workers, batch_size, seed : int
        The settings.
    system : dict
        Versions and machine of the driver.
    network : dict
        ``name``, ``class``, ``layers`` and ``weights`` of the Keras model.
    started_at : str
        When ``fit`` was called, in ISO 8601 and UTC.
    target : str or None
        The Param ``stopWhen``.
    seconds_to_target : float or None
        From the start of the fit to the end of the first epoch that reached it.
    seconds : dict of str to float
        By phase: ``prepare``, ``materialize``, ``start``, ``train``, ``collect``, ``other``
        (between the phases), which add up to `total_seconds`, and ``log``.
    total_seconds : float
        From the call of ``fit`` to the trained model, so without ``log``.
    metrics_over_time : dict of str to list
        Metric to a list of ``[epoch, seconds since the fit began, value]``.
    accuracy : AccuracyReached
        Seconds to 0.7, 0.8, 0.9, 0.95, 0.98, 0.985 and 0.99.
    epoch_seconds, rows_per_second : list of float
        Of the training steps of each epoch, validation left out.
    training_shares : Parts
        Shares of the training steps' time.
    shares : Parts
        Shares of `total_seconds`.
    ranks : list of RankSeconds
        By rank, where it is known.
    utilization : list of Utilization
        By rank, where it was sampled.
    limit : Limit
        What limits the fit.
    warnings : list of str
        What the driver warned of.
    """

    schema: int
    backend: str
    backend_reason: str
    workers: int
    batch_size: int
    seed: int
    system: dict[str, Any]
    network: dict[str, Any]
    started_at: str
    target: str | None
    seconds_to_target: float | None
    seconds: dict[str, float]
    total_seconds: float
    metrics_over_time: dict[str, list[list[float]]]
    accuracy: AccuracyReached
    epoch_seconds: list[float]
    rows_per_second: list[float]
    training_shares: Parts
    shares: Parts
    ranks: list[RankSeconds]
    utilization: list[Utilization]
    limit: Limit
    warnings: list[str]


class FitReport(Measurements, total=False):
    """Everything known about one fit, JSON-able.

    A fit that succeeded has all of these but those that name a backend: others may lack
    them.

    Attributes
    ----------
    transport : str
        What carried the gradients, as it really ran.
    bytes_sent_per_step : float or None
        Of one worker, on average over steps: computed from the number of weights, their
        type on the wire and the number of workers. Statistics, metrics and headers are
        left out. None where the backend has no such number.
    rows, skipped_rows : dict of str to int, int
        Rows of ``train`` and ``validation``, and those left out by ``handleInvalid="skip"``.
    rows_per_epoch, steps_per_epoch, plan : int, int, dict
        How rows were divided.
    epoch_rows : list of int
        Rows trained on in each epoch; fewer where a callback stopped within one.
    fit_seconds : float
        Of Keras's ``fit``, or all epochs with their validation.
    materialized_bytes, data_url : int, str
        The files that were trained on.
    reader : str
        The library through which workers read them: ``"petastorm"`` or ``"pyarrow"``.
    transformation : dict
        What changed the batches that train, if anything did: its ``name``, and whether
        TensorFlow ``traced`` it or numpy arrays went through Python.
    trainable_weights : int
        Number of weights that are trained.
    weights_hash : str
        SHA-256 of the trained weights, equal on all ranks.
    mlflow_run_id, mlflow_model_id : str
        Where MLflow has the fit, if it does.
    gradient_bytes : int
        local, horovod, collective: of the gradients of one worker, uncompressed.
    reading_seconds : float
        local, horovod, collective: in the reading thread of rank 0, in its last epoch.
    rank_seconds : dict
        horovod, collective: of rank 0 until it was ready, had joined and was done.
    phase_seconds, last_job : dict
        shuffle: seconds by phase of a synchronization, of the fit and of its last job.
    spark_seconds : float
        shuffle: of the jobs, what tasks do not explain: scheduling, shuffle files, network.
    weights, slices, cut, slice_state : object
        shuffle: how weights were cut, and where state waited.
    synchronizations, restarts, repeats_for_lost_state : int
        shuffle: how often what happened.
    servers, steps_per_call, rows_by_worker, calls_by_worker, worker_seconds : object
        parameter_server: how it ran, and what each worker did.
    staleness : dict
        parameter_server: ``mean`` and ``max`` number of updates between reading the weights
        and applying the gradient.
    worker_restarts : int
        parameter_server: workers started again.
    """

    transport: str
    bytes_sent_per_step: float | None
    rows: dict[str, int]
    skipped_rows: int
    rows_per_epoch: int
    steps_per_epoch: int
    plan: dict[str, Any]
    epoch_rows: list[int]
    fit_seconds: float
    reading_seconds: float
    materialized_bytes: int
    data_url: str
    reader: str
    transformation: dict[str, Any]
    trainable_weights: int
    gradient_bytes: int
    weights_hash: str
    mlflow_run_id: str
    mlflow_model_id: str
    rank_seconds: dict[str, float]
    phase_seconds: dict[str, float]
    last_job: dict[str, float]
    spark_seconds: float
    weights: int
    slices: list[int]
    cut: str
    slice_state: str
    synchronizations: int
    restarts: int
    repeats_for_lost_state: int
    servers: int
    steps_per_call: int
    rows_by_worker: Any
    calls_by_worker: Any
    worker_seconds: Any
    staleness: dict[str, Any]
    worker_restarts: int


PARTS: tuple[str, ...] = tuple(Parts.__annotations__)


def no_parts() -> Parts:
    """Parts of which nothing was measured."""
    return Parts(
        input=None,
        compute=None,
        communication=None,
        waiting=None,
        spark=None,
        start_up=None,
        other=None,
    )
