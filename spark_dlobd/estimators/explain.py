"""From an estimator and a DataFrame to an `Explanation`. Runs on the driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spark_dlobd.backends.registry import from_param
from spark_dlobd.cost.advice import explain_choice, recommend
from spark_dlobd.cost.cluster import probe_cluster
from spark_dlobd.cost.explanation import Explanation
from spark_dlobd.cost.measured import ClusterCost, StepCost
from spark_dlobd.cost.model import Prediction, Way, Workload, predict, way_of
from spark_dlobd.cost.sample import sample
from spark_dlobd.cost.step import probe_step
from spark_dlobd.data.materialize import count_split
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.estimators.preparation import Prepared, prepare
from spark_dlobd.spark import slots
from spark_dlobd.training import keras_codec
from spark_dlobd.training.signature import outputs_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from spark_dlobd.estimators.settings import FitSettings

# Sharing a host is what has to be measured, not every host of a large cluster.
_MOST_PROBED = 16
_USUAL: tuple[dict[str, Any], ...] = (
    {"name": "local"},
    {"name": "horovod"},
    {"name": "collective", "transport": "mpi"},
    {"name": "collective", "transport": "ring"},
    {"name": "shuffle"},
    {"name": "shuffle", "sync_every": 10},
    {"name": "parameter_server"},
)


def explain(
    settings: FitSettings, dataset: DataFrame, workers: int | Sequence[int] | None = None
) -> Explanation:
    """See `DLEstimator.explain`."""
    given = _worker_counts(workers)
    prepared = prepare(settings, dataset)
    spark = dataset.sparkSession
    config = prepared.job.config
    train, held = count_split(prepared.rows, prepared.request.validation)
    _check_rows(train, config.world_size, config.batch_size)
    most = min(train, config.batch_size)
    counts = _with_own(given or _usual_counts(slots(spark).slots, most), config.world_size)
    _check_rows(train, max(counts), config.batch_size)
    model = settings.getModel()
    arrays = sample(
        dataset,
        prepared.job.columns,
        config.batch_size,
        prepared.request.handle_invalid,
    )
    together = min(max(counts), _MOST_PROBED)
    cluster = probe_cluster(spark, together)
    step = probe_step(spark, prepared.job, arrays, together)
    work = _workload(prepared, model, train)
    predictions = _predictions(_ways(settings), counts, work, cluster, step)
    refused = _refused(prepared, spark)
    best = recommend(predictions, refused)
    asked = (prepared.choice.backend.name, config.world_size)
    return Explanation(
        model=str(model.name),
        input_shapes=tuple(column.shape for column in prepared.job.columns.inputs),
        output_shapes=tuple(one.shape for one in outputs_of(model).tensors),
        weights=work.weights,
        variables=len(model.trainable_variables),
        row_counts=(train, held),
        work=work,
        backend=asked[0],
        workers=config.world_size,
        memory_bytes_per_worker=step.memory_bytes,
        predictions=predictions,
        recommended=best,
        why=explain_choice(best, predictions, refused, asked),
        refused=refused,
        cluster=cluster,
        step=step,
    )


def _worker_counts(workers: int | Sequence[int] | None) -> tuple[int, ...]:
    given: Any = (workers,) if isinstance(workers, int) else workers
    if given is None:
        return ()
    counts = tuple(given) if isinstance(given, (list, tuple, range)) else ()
    # a bool is an int too
    if not counts or not all(type(count) is int and count >= 1 for count in counts):
        raise ConfigurationError(
            f"workers must be an int of at least 1, or several of them. Got {workers!r}."
        )
    return counts


def _usual_counts(available: int, most: int) -> tuple[int, ...]:
    """1, 2, 4 and so on, as many as there are slots, and the slots. Pure.

    Examples
    --------
    >>> _usual_counts(6, most=128), _usual_counts(6, most=3)
    ((1, 2, 4, 6), (1, 2))
    """
    counts = {1, available, *(2**power for power in range(available.bit_length()))}
    return tuple(sorted(count for count in counts if count <= max(1, min(available, most))))


def _with_own(counts: tuple[int, ...], own: int) -> tuple[int, ...]:
    return tuple(sorted({*counts, own}))


def _predictions(
    ways: Sequence[Way],
    counts: Sequence[int],
    work: Workload,
    cluster: ClusterCost,
    step: StepCost,
) -> tuple[Prediction, ...]:
    """All combinations for which everything was measured. Pure."""
    return tuple(
        predict(way, count, work, cluster, step)
        for way in ways
        for count in counts
        if count == 1 or way.backend in ("local", "shuffle") or cluster.bytes_per_s is not None
    )


def _check_rows(rows: int, workers: int, batch_size: int) -> None:
    """Raise what a fit would: the plan checks rows and batch."""
    from spark_dlobd.errors import DataError
    from spark_dlobd.job.plan import ShardPlan

    if not rows:
        raise DataError("The DataFrame has no rows. Expected at least one to train on.")
    ShardPlan((rows,), workers, batch_size, 0)


def _workload(prepared: Prepared, model: Any, rows: int) -> Workload:
    config = prepared.job.config
    weights, gradient_bytes = keras_codec.weights_and_bytes(model)
    return Workload(
        rows=rows,
        batch_size=config.batch_size,
        epochs=config.epochs,
        weights=weights,
        gradient_bytes=gradient_bytes,
        row_bytes=prepared.job.columns.row_bytes,
    )


def _refused(prepared: Prepared, spark: SparkSession) -> dict[str, str]:
    """Backends that would not train this with however many slots, and their first reason."""
    job = prepared.job
    alone = replace(job, config=replace(job.config, world_size=1))
    refused = {}
    for name in ("horovod", "collective", "shuffle", "parameter_server"):
        if name == prepared.choice.backend.name:
            continue  # its own options were checked
        try:
            from_param(name).create().check(spark, alone)
        except ConfigurationError as error:
            refused[name] = str(error)
    return refused


def _ways(settings: FitSettings) -> list[Way]:
    """The estimator's own, and the usual ones."""
    own = settings.getOrDefault(settings.backend)
    asked = [] if own == "auto" else [own]
    found = [way_of(param) for param in (*asked, *_USUAL)]
    by_label: dict[str, Way] = {}
    for way in found:
        if way is not None:
            by_label.setdefault(way.label, way)
    return list(by_label.values())
