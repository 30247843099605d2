"""Workers of the shuffle backend in one process: its stages as plain functions, without Spark."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spark_dlobd.backends.shuffle.master import Master
from spark_dlobd.backends.shuffle.slices.checkpoint import CheckpointStore
from spark_dlobd.backends.shuffle.slices.store import SliceStore
from spark_dlobd.backends.shuffle.stages import worker
from spark_dlobd.backends.shuffle.stages.gradient import gradient_stage
from spark_dlobd.backends.shuffle.stages.others import validation_stage
from spark_dlobd.backends.shuffle.stages.task import ShuffleTask, StartPoint
from spark_dlobd.backends.shuffle.stages.update import norm_stage, update_stage
from spark_dlobd.backends.shuffle.wire.messages import Message, unpack
from spark_dlobd.job.columns import ColumnSpec, TensorColumn
from spark_dlobd.job.dataset import DatasetRef, RowGroup
from spark_dlobd.job.network import Network, OutputSpec
from spark_dlobd.job.train_job import FitConfig, TrainJob
from spark_dlobd.processes.events import Event
from spark_dlobd.processes.failure import Failure
from spark_dlobd.processes.versions import driver_versions
from spark_dlobd.training.collective import SingleProcess
from spark_dlobd.training.keras_codec import compile_config, custom_objects_of, model_to_archive
from spark_dlobd.training.loop import LoopOptions, build_model, train_rank

WIDTH, CLASSES = 5, 3
ROWS = (17, 8, 18)


def rows(folder: Path, validation: tuple[int, ...] = (), weighted: bool = True) -> DatasetRef:
    """43 training rows of three overlapping classes, as `materialize` lays them out."""
    draw = np.random.default_rng(7)
    columns = ColumnSpec.of(
        TensorColumn("x", "float32", (WIDTH,)),
        TensorColumn("y", "int32", (), num_classes=CLASSES),
        TensorColumn("w", "float32", ()) if weighted else None,
    )
    folder.mkdir(parents=True, exist_ok=True)
    groups = []
    for index, count in enumerate(ROWS + validation):
        labels = draw.integers(0, CLASSES, count).astype("int32")
        features = (draw.normal(size=(count, WIDTH)) + labels[:, None]).astype("float32")
        table = {
            "features": pa.array([row.tobytes() for row in features], pa.binary()),
            "label": pa.array(labels),
        }
        if weighted:
            table["weight"] = pa.array(draw.uniform(0.5, 2.0, count).astype("float32"))
        path = folder / f"part-{index:05d}.parquet"
        pq.write_table(pa.table(table), path, compression="none", use_dictionary=False)
        groups.append(RowGroup(path.as_uri(), count))
    train, rest = groups[: len(ROWS)], groups[len(ROWS) :]
    return DatasetRef(folder.as_uri(), columns, tuple(train), tuple(rest))


def network(statistics: bool = True, dropout: float = 0.3) -> Any:
    """A small classifier with statistics and random state."""
    import keras

    keras.utils.set_random_seed(1)
    layers: list[Any] = [keras.Input((WIDTH,)), keras.layers.Dense(8, "relu")]
    if statistics:
        layers.append(keras.layers.BatchNormalization())
    if dropout:
        layers.append(keras.layers.Dropout(dropout))
    return keras.Sequential([*layers, keras.layers.Dense(CLASSES, "softmax")])


def job(
    model: Any,
    optimizer: Any,
    workers: int,
    *,
    epochs: int = 2,
    batch_size: int = 10,
    loss: Any = "sparse_categorical_crossentropy",
    metrics: tuple[Any, ...] = ("accuracy",),
) -> TrainJob:
    """What the estimator would make of these."""
    config = compile_config(model, loss, optimizer, metrics)
    network = Network(model_to_archive(model), config, custom_objects_of(model, config))
    output = OutputSpec("multiclass", CLASSES)
    columns = ColumnSpec.of(
        TensorColumn("x", "float32", (WIDTH,)), TensorColumn("y", "int32", (), CLASSES)
    )
    return TrainJob(
        "unit", network, (output,), columns, FitConfig(workers, batch_size, epochs, seed=5)
    )


class Silent:
    """Nobody listens to the local fit."""

    def phase(self, text: str) -> None:
        pass

    def steps(self, steps: Any) -> None:
        pass

    def epoch(self, epoch: int, metrics: Any) -> None:
        pass


@dataclass(frozen=True)
class Fit:
    """What a fit came to."""

    history: dict[str, list[float]]
    weights: list[Any]


def local_fit(job: TrainJob, data: DatasetRef) -> Fit:
    """The reference: backend local with as many virtual workers."""
    model = build_model(job)
    options = LoopOptions(virtual_workers=job.config.world_size)
    result = train_rank(model, job, data, SingleProcess(), Silent(), options)
    return Fit(result.history, model.get_weights())


@dataclass
class Host:
    """What one Python worker and its executor's directory hold."""

    folder: Path
    tools: OrderedDict[str, Any] = field(default_factory=OrderedDict)


StageOf = Callable[[int, Iterator[bytes]], Iterator[bytes]]


class Group:
    """Runs a fit stage by stage.

    Parameters
    ----------
    folder : Path
        For checkpoints and slices.
    job, data
        Of the fit.
    steps_per_job : int, optional
        Default: an epoch is one job.
    hosts : int, optional
        Processes that take turns; fewer than workers share a model. Default: one each.
    twice : bool
        Run every task twice, compare, and go on with either of the two.
    options
        Of `ShuffleTask`, and ``error_feedback``.
    """

    def __init__(
        self,
        folder: Path,
        job: TrainJob,
        data: DatasetRef,
        *,
        steps_per_job: int | None = None,
        hosts: int | None = None,
        twice: bool = False,
        error_feedback: bool = False,
        **options: Any,
    ) -> None:
        self.job, self.twice = job, twice
        self.options = {"wire": "fp32", "state": "host", "sync_every": 1, **options}
        self.size = job.config.world_size
        self.master = Master(job, data, self.options["sync_every"] > 1)
        self.steps = self.master.replica.plan.steps_per_epoch
        self.steps_per_job = steps_per_job or self.steps
        self.store = CheckpointStore((folder / "checkpoints").as_uri())
        self.master.write_first(self.store, error_feedback)
        self.start = StartPoint((0, 0), (0, 0), (0, 0))
        self.epoch = 0
        self.events: list[Event] = []
        self.payload = SimpleNamespace(value=cloudpickle.dumps(self.master.assignment))
        self._folder, self._hosts = folder, 0
        made = [self.new_host() for _ in range(hosts or self.size)]
        self.hosts = [made[partition % len(made)] for partition in range(self.size)]
        self.repeats: list[Failure] = []
        self._done: list[tuple[StageOf, list[list[bytes]], list[list[bytes]]]] = []
        self._random = random.Random(3)
        self.before_stage: Callable[[str, int], None] = lambda name, step: None

    def new_host(self) -> Host:
        """A process that knows nothing, on a host without files."""
        self._hosts += 1
        return Host(self._folder / f"host-{self._hosts}")

    def _hear(self, told: list[str]) -> None:
        self.events += [Event.from_json(json.loads(text)) for text in told]

    def task(self, first: int, last: int) -> ShuffleTask:
        accumulator = SimpleNamespace(add=self._hear)
        return ShuffleTask(
            run_id=self.job.run_id,
            versions=driver_versions("pyarrow"),
            payload=self.payload,  # type: ignore[arg-type]
            events=accumulator,  # type: ignore[arg-type]
            world_size=self.size,
            cores=1,
            checkpoints=self.store.url,
            epoch=self.epoch,
            first_step=first,
            last_step=last,
            start=self.start,
            learning_rate=self.master.learning_rate,
            clipnorm=self.master.clipnorm,
            **self.options,
        )

    @contextmanager
    def on(self, host: Host) -> Iterator[None]:
        """Be that host's process."""
        before = worker._tools, os.environ.get("SPARK_LOCAL_DIRS")
        worker._tools = host.tools
        os.environ["SPARK_LOCAL_DIRS"] = str(host.folder)
        try:
            yield
        finally:
            worker._tools = before[0]
            os.environ.pop("SPARK_LOCAL_DIRS")
            if before[1] is not None:
                os.environ["SPARK_LOCAL_DIRS"] = before[1]

    def run_task(self, stage: StageOf, partition: int, inbox: list[bytes]) -> list[bytes]:
        """One attempt of one task; records come in any order and with empty ones between."""
        shuffled = [*inbox, *[b""] * len(inbox)]
        self._random.shuffle(shuffled)
        with self.on(self.hosts[partition]):
            return list(stage(partition, iter(shuffled)))

    def run_stage(self, stage: StageOf, inboxes: list[list[bytes]]) -> list[list[bytes]]:
        sent = []
        for partition, inbox in enumerate(inboxes):
            attempts = [self.run_task(stage, partition, inbox)]
            if self.twice:
                attempts.append(self.run_task(stage, partition, inbox))
                assert attempts[0] == attempts[1], (stage, partition)
            sent.append(self._random.choice(attempts))
        self._done.append((stage, inboxes, sent))
        return sent

    def do_again(self, partition: int) -> None:
        """What Spark does when it lost all that a partition has sent in a job."""
        for stage, inboxes, sent in self._done:
            assert self.run_task(stage, partition, inboxes[partition]) == sent[partition], stage

    def run_job(self, first: int, last: int, **changes: Any) -> list[Message]:
        """All stages of one Spark job."""
        task = replace(self.task(first, last), **changes)
        self._done.clear()
        inboxes: list[list[bytes]] = [[] for _ in range(self.size)]
        for step in range(first, last, task.sync_every):
            final = step + task.sync_every >= last
            self.before_stage("gradient", step)
            stages = [functools.partial(gradient_stage, task)]
            if task.clipnorm is not None:
                stages.append(functools.partial(norm_stage, task))
            for stage in stages:
                inboxes = exchanged(self.run_stage(stage, inboxes))
            self.before_stage("update", step)
            sent = self.run_stage(functools.partial(update_stage, task, final), inboxes)
            if final:
                return [unpack(record) for records in sent for record in records]
            inboxes = exchanged(sent)
        raise AssertionError("a job has at least one step")

    def run_jobs(self, epoch: int) -> None:
        """The jobs of an epoch; one that lost its state again, as the driver does."""
        self.epoch = epoch
        for first in range(0, self.steps, self.steps_per_job):
            last = min(first + self.steps_per_job, self.steps)
            done = self.run_job(first, last)
            failures = [m.header["failure"] for m in done if m.header["kind"] == "failed"]
            if failures and failures[0]["cause"] == "lost":
                self.repeats.append(Failure.from_json(failures[0]))
                done = self.run_job(first, last, state="shuffle")
            assert [message.header["kind"] for message in done] == ["checkpoint"] * self.size
            self.start = StartPoint(*[(epoch, last)] * 3)

    def rewind(self) -> None:
        """Back to before the first step; processes keep what they have built."""
        for checkpoint in (self._folder / "checkpoints").iterdir():
            if checkpoint.as_uri() != self.store.folder(0, 0):
                shutil.rmtree(checkpoint)
        for host in self.hosts:
            with self.on(host):
                SliceStore(self.job.run_id).remove()
        self.start = StartPoint((0, 0), (0, 0), (0, 0))
        self.repeats.clear()

    def run_epoch(self, epoch: int) -> dict[str, float]:
        self.run_jobs(epoch)
        self.master.load(self.store, (epoch, self.steps))
        logs = self.master.metrics([])
        following = (epoch + 1, 0)
        self.master.write_worker_states(self.store, following)
        self.start = StartPoint(self.start.weights, self.start.optimizer, following)
        if self.master.replica.validation_plan is not None:
            stage = functools.partial(validation_stage, self.task(0, 0))
            sent = self.run_stage(stage, [[] for _ in self.hosts])
            logs |= self.master.validation_metrics([unpack(r) for one in sent for r in one])
        return logs

    def fit(self) -> Fit:
        """All epochs."""
        logs = [self.run_epoch(epoch) for epoch in range(self.job.config.epochs)]
        self.master.finish(self.store, self.start)
        history = {name: [one[name] for one in logs] for name in logs[0]}
        return Fit(history, self.master.model.get_weights())


def exchanged(sent: list[list[bytes]]) -> list[list[bytes]]:
    """What a shuffle does with addresses and records in turns."""
    from pyspark.serializers import pack_long

    addresses = {pack_long(target): target for target in range(len(sent))}
    inboxes: list[list[bytes]] = [[] for _ in sent]
    for records in sent:
        for address, record in zip(records[::2], records[1::2], strict=True):
            inboxes[addresses[address]].append(record)
    return inboxes
