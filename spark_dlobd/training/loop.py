"""One rank's training from model bytes to trained model. Runs on each worker.

Imported late: it imports TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from spark_dlobd.data.reader import ShardReader
from spark_dlobd.data.transform import transformer_of
from spark_dlobd.job.dataset import DatasetRef, Split
from spark_dlobd.job.plan import ShardPlan
from spark_dlobd.job.train_job import TrainJob, TrainResult
from spark_dlobd.training import keras_codec
from spark_dlobd.training.callbacks import (
    GroupBegin,
    GroupEnd,
    LoopEvents,
    Telling,
    callbacks_of_rank,
)
from spark_dlobd.training.collective import Collective
from spark_dlobd.training.measure import Measurement, Tell
from spark_dlobd.training.optimizer_state import load_optimizer_state, optimizer_state
from spark_dlobd.training.state import average_statistics, rank_seeds, seed_states
from spark_dlobd.training.step import GroupOptimizer, StepClock, compile_step_without_apply
from spark_dlobd.training.virtual import VirtualWorkers


@dataclass(frozen=True)
class LoopOptions:
    """How a backend wants the loop.

    Attributes
    ----------
    virtual_workers : int
        Workers that share this process; more than one only in a group of one.
    accumulation_steps : int
        Steps summed locally before gradients are averaged.
    measured : callable or None
        Takes what this rank measures, as `Observed.measured` wants it; None measures
        nothing.
    first_callbacks, last_callbacks : sequence of Callback
        Run before and after all others.
    """

    virtual_workers: int = 1
    accumulation_steps: int = 1
    measured: Tell | None = None
    first_callbacks: Sequence[Any] = ()
    last_callbacks: Sequence[Any] = ()


@dataclass
class RankData:
    """The readers and datasets of the ranks that live in this process."""

    plan: ShardPlan
    readers: list[ShardReader] = field(default_factory=list)

    @classmethod
    def open(
        cls, job: TrainJob, data: DatasetRef, split: Split, plan: ShardPlan, ranks: Sequence[int]
    ) -> RankData:
        """Make a reader per rank."""
        changes = transformer_of(job, split)
        return cls(plan, [ShardReader(data, split, plan, r, transformer=changes) for r in ranks])

    def dataset(
        self,
        class_weight: dict[int, float] | None,
        noter: Callable[[], Callable[..., Any] | None] = lambda: None,
    ) -> Any:
        """One element a step; with several readers a tuple of their batches.

        `noter` makes a function for each reader that is handed its batches when they are
        ready.
        """
        weigh = class_weigher(class_weight)
        parts = [reader.dataset(_one_after(weigh, noter())) for reader in self.readers]
        joined = parts[0] if len(parts) == 1 else tf.data.Dataset.zip(tuple(parts))
        return joined.apply(tf.data.experimental.assert_cardinality(self.plan.steps_per_epoch))

    def go_to(self, epoch: int) -> None:
        """Point every reader at an epoch."""
        for reader in self.readers:
            reader.epoch = epoch

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise what ended a pass, of which TensorFlow reports only the text."""
        try:
            yield
        except tf.errors.OpError:
            for reader in self.readers:
                if reader.error is not None:
                    raise reader.error from None
            raise

    @property
    def seconds_reading(self) -> float:
        """Time spent reading and decoding, in the read-ahead thread."""
        return sum(reader.seconds_reading for reader in self.readers)


def _one_after(
    first: Callable[..., Any] | None, second: Callable[..., Any] | None
) -> Callable[..., Any] | None:
    if first is None or second is None:
        return first or second
    return lambda *batch: second(*first(*batch))


def class_weigher(class_weight: dict[int, float] | None) -> Callable[..., Any] | None:
    """Function of a batch that multiplies sample weights by those of the classes."""
    if not class_weight:
        return None
    values = [class_weight.get(k, 1.0) for k in range(max(class_weight) + 1)]

    def weigh(x: Any, y: Any, weight: Any = None) -> tuple[Any, Any, Any]:
        table = tf.constant(values)
        (labels,) = tf.nest.flatten(y)
        one_hot = labels.shape.rank == 2 and labels.shape[1] != 1
        index = tf.argmax(labels, -1) if one_hot else tf.reshape(labels, [-1])
        index = tf.cast(index, tf.int32)
        known = tf.where(
            index < len(values), tf.gather(table, tf.minimum(index, len(values) - 1)), 1
        )
        return x, y, known if weight is None else known * weight

    return weigh


def plans(job: TrainJob, data: DatasetRef, world_size: int) -> tuple[ShardPlan, ShardPlan | None]:
    """Shard plans of training and, where there are rows, of validation."""
    config = job.config
    counts = {
        split: tuple(g.rows for g in data.row_groups(split)) for split in ("train", "validation")
    }
    train = ShardPlan(counts["train"], world_size, config.batch_size, config.seed, config.shuffle)
    if not counts["validation"]:
        return train, None
    validation = ShardPlan(
        counts["validation"],
        world_size,
        config.batch_size,
        config.seed,
        shuffle=False,
        idle_ranks=True,
    )
    return train, validation


def build_model(job: TrainJob) -> Any:
    """Rebuild and compile the model of a job."""
    model = keras_codec.network_to_model(job.network)
    if job.network.optimizer_state:
        load_optimizer_state(model, job.network.optimizer_state)
    return model


@dataclass
class RankRows:
    """What one rank reads: its training rows and, where it has any, validation rows.

    Attributes
    ----------
    ranks : list of int
        Those that train in this process; several are virtual workers.
    train : RankData
        Of these ranks.
    validation_plan : ShardPlan or None
        None where nobody validates.
    validation : RankData or None
        None also on a rank without validation rows.
    """

    ranks: list[int]
    train: RankData
    validation_plan: ShardPlan | None
    validation: RankData | None = None

    @classmethod
    def open(
        cls, job: TrainJob, data: DatasetRef, group: Collective, virtual_workers: int
    ) -> RankRows:
        """Make the readers of one rank."""
        train_plan, _ = plans(job, data, group.size * virtual_workers)
        # virtual workers do not divide the validation
        _, validation_plan = plans(job, data, group.size)
        ranks = [group.rank] if virtual_workers == 1 else list(range(virtual_workers))
        rows = cls(ranks, RankData.open(job, data, "train", train_plan, ranks), validation_plan)
        if validation_plan is not None and validation_plan.rows(group.rank):
            rows.validation = RankData.open(job, data, "validation", validation_plan, [group.rank])
        return rows

    @property
    def steps(self) -> int:
        """Of an epoch of training."""
        return self.train.plan.steps_per_epoch

    @property
    def validation_steps(self) -> int:
        """Of a validation; 0 where nobody validates."""
        return 0 if self.validation_plan is None else self.validation_plan.steps_per_epoch

    @property
    def idle_in_validation(self) -> bool:
        """Whether other ranks validate and this one has no rows for it."""
        return self.validation_plan is not None and self.validation is None

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise what ended a pass over either split, as it was."""
        with (
            self.train.errors(),
            nullcontext() if self.validation is None else self.validation.errors(),
        ):
            yield

    def validation_arguments(self) -> dict[str, Any]:
        """What ``keras.Model.fit`` takes to validate on these rows."""
        if self.validation is None:
            return {}
        return {
            "validation_data": self.validation.dataset(None),
            "validation_steps": self.validation_steps,
        }


def train_rank(
    model: Any,
    job: TrainJob,
    data: DatasetRef,
    group: Collective,
    events: LoopEvents,
    options: LoopOptions | None = None,
) -> TrainResult:
    """Train `model` as one rank of `group`; every rank calls this.

    Returns
    -------
    TrainResult
        With the archive on rank 0, without (empty) on the others.
    """
    options = options or LoopOptions()
    config = job.config
    _seed(model, config.seed, group.rank)
    rows = RankRows.open(job, data, group, options.virtual_workers)
    clock = StepClock(rows.train.plan, rows.ranks)
    measurement = Measurement(options.measured, group, rows.steps)
    with (
        measurement,
        _Instrumented(model, group, clock, options, config.seed, measurement) as instrumented,
    ):
        begin = _begin_of_epochs(rows, group, clock, instrumented)
        started = time.monotonic()
        with rows.errors():
            history = model.fit(
                rows.train.dataset(config.class_weight, measurement.noter),
                epochs=config.epochs,
                # without them Keras makes each iterator over the data twice
                steps_per_epoch=rows.steps,
                **rows.validation_arguments(),
                callbacks=[
                    *options.first_callbacks,
                    begin,
                    *measurement.callbacks(begin),
                    Telling(events, tell_metrics=group.rank == 0),
                    *callbacks_of_rank(config.callbacks, group.rank),
                    GroupEnd(group, instrumented.optimizer, begin, rows.steps),
                    *options.last_callbacks,
                ],
                shuffle=False,  # the reader shuffles
                verbose=0,
            )
        seconds = time.monotonic() - started
    events.phase("collect")
    first = group.rank == 0
    return TrainResult(
        archive=keras_codec.model_to_archive(model) if first else b"",
        history={name: [float(v) for v in values] for name, values in history.history.items()},
        report={
            "fit_seconds": seconds,
            "reading_seconds": rows.train.seconds_reading,
            **_epoch_facts(rows.train.plan, begin),
            **_weights_facts(model),
        },
        optimizer_state=optimizer_state(model.optimizer)
        if first and config.keep_optimizer
        else b"",
    )


def _seed(model: Any, seed: int, rank: int) -> None:
    keras.utils.set_random_seed(seed + rank)
    for variable, value in zip(seed_states(model), rank_seeds(model, seed, rank), strict=True):
        variable.assign(value)


def _begin_of_epochs(
    rows: RankRows, group: Collective, clock: StepClock, instrumented: _Instrumented
) -> GroupBegin:
    def begin_epoch(epoch: int) -> None:
        rows.train.go_to(epoch)
        clock.restart()

    return GroupBegin(
        group,
        rows.steps,
        rows.validation_steps,
        begin_epoch,
        instrumented.merge_statistics,
        idle_in_validation=rows.idle_in_validation,
    )


def _epoch_facts(plan: ShardPlan, begin: GroupBegin) -> dict[str, Any]:
    sizes = plan.global_batch_sizes()
    return {
        "weights_hash": begin.weights_hash,
        "rows_per_epoch": plan.total_rows,
        "steps_per_epoch": plan.steps_per_epoch,
        "plan": plan.describe(),
        "epoch_seconds": begin.epoch_seconds,
        "epoch_rows": [sum(sizes[:steps]) for steps in begin.epoch_steps],
    }


def _weights_facts(model: Any) -> dict[str, int]:
    weights, gradient_bytes = keras_codec.weights_and_bytes(model)
    return {"trainable_weights": weights, "gradient_bytes": gradient_bytes}


class _Instrumented:
    """The model with this group's step and optimizer, given back on exit."""

    def __init__(
        self,
        model: Any,
        group: Collective,
        clock: StepClock,
        options: LoopOptions,
        seed: int,
        measurement: Measurement,
    ) -> None:
        self._model = model
        self._group = group
        self._virtual: VirtualWorkers | None = None
        self._replaced_step = False
        if options.virtual_workers > 1:
            self._virtual = VirtualWorkers(model, clock, options.virtual_workers, seed)
            # the average over workers is done, so the optimizer sees a group of one
            self.optimizer: Any = None
            return
        self.optimizer = GroupOptimizer(
            model, group, clock, options.accumulation_steps, measurement.communication
        )
        if group.size > 1 and model.jit_compile:
            model.jit_compile = False
            compile_step_without_apply(model)
            self._replaced_step = True

    def merge_statistics(self) -> None:
        if self._virtual is not None:
            self._virtual.average_statistics()
        elif self._group.size > 1:
            average_statistics(self._model, self._group)

    def __enter__(self) -> _Instrumented:
        return self

    def __exit__(self, *_: object) -> None:
        if self._virtual is not None:
            self._virtual.restore()
        if self.optimizer is not None:
            self.optimizer.restore()
        if self._replaced_step:
            del self._model.train_step
