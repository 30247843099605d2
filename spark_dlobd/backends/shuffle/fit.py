"""One fit of the shuffle backend: epochs, jobs, validation and callbacks. Runs on the driver."""

from __future__ import annotations

import copy
import functools
import math
import time
import traceback
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from spark_dlobd.backends.shuffle.master import Master
from spark_dlobd.backends.shuffle.slices.checkpoint import CheckpointStore
from spark_dlobd.backends.shuffle.spark.events import EventStream
from spark_dlobd.backends.shuffle.spark.exchange import Exchange
from spark_dlobd.backends.shuffle.spark.explain import JobLostError, StateLostOnHostError
from spark_dlobd.backends.shuffle.spark.job_length import JobLength
from spark_dlobd.backends.shuffle.spark.jobs import JobRunner
from spark_dlobd.backends.shuffle.spark.planner import Planner
from spark_dlobd.backends.shuffle.stages.gradient import warm_up_stage
from spark_dlobd.backends.shuffle.stages.others import release_stage, validation_stage
from spark_dlobd.backends.shuffle.stages.task import ShuffleTask, StartPoint
from spark_dlobd.backends.shuffle.timers import Timers
from spark_dlobd.backends.shuffle.wire.events import GradientSent, SliceUpdated, Worked
from spark_dlobd.backends.shuffle.wire.vectors import bytes_per_weight
from spark_dlobd.data.storage import CacheDirectory
from spark_dlobd.errors import DLError, TrainingError, WorkerError
from spark_dlobd.job.train_job import TrainResult
from spark_dlobd.processes.versions import driver_versions
from spark_dlobd.report.traffic import allreduce_bytes
from spark_dlobd.spark import slots, spark_context

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    from spark_dlobd.backends.shuffle.config import ShuffleConfig
    from spark_dlobd.job.dataset import DatasetRef
    from spark_dlobd.job.train_job import TrainJob
    from spark_dlobd.processes.events import Event
    from spark_dlobd.tracking.reporter import Reporter

_RELEASE_TIMEOUT_S = 10.0


def default_state(context: SparkContext) -> Literal["host", "shuffle"]:
    """Where slices wait: in the shuffle if Spark encrypts that, or copies tasks to other hosts."""
    conf = context.getConf()
    settings = ("spark.io.encryption.enabled", "spark.speculation")
    needed = any(str(conf.get(name, "false")).lower() == "true" for name in settings)
    return "shuffle" if needed else "host"


class ShuffleFit:
    """Trains one job; see `ShuffleBackend.fit`."""

    def __init__(
        self,
        spark: SparkSession,
        job: TrainJob,
        data: DatasetRef,
        reporter: Reporter,
        config: ShuffleConfig,
    ) -> None:
        self._spark = spark
        self._context = spark_context(spark)
        # callbacks run on the driver, on copies of the fit's own
        self._callbacks = copy.deepcopy(job.config.callbacks)
        self._job = replace(job, config=replace(job.config, callbacks=()))
        self._data = data
        self._reporter = reporter
        self._config = config
        self._events = EventStream(self._context)
        self._versions = driver_versions(data.reader)
        self._runner = JobRunner(spark, job.run_id, self._events, self._hear)
        self._timers = Timers()
        self._cores = slots(spark).cores_per_task
        self._state = config.state or default_state(self._context)
        self._start_point = StartPoint((0, 0), (0, 0), (0, 0))
        self._logs: dict[tuple[int, int], dict[str, float]] = {}
        self._rows: dict[tuple[int, int], int] = {}
        self._epoch = 0
        self._phase = "start"
        self._restarts = 0
        self._repeats = 0
        self._epoch_rows: list[int] = []
        self._slice_folders: set[str] = set()

    @property
    def _world(self) -> int:
        return self._job.config.world_size

    @property
    def _steps(self) -> int:
        return self._master.replica.plan.steps_per_epoch

    def run(self) -> TrainResult:
        """Train to the end, or raise one `DLError`."""
        with ExitStack() as stack:
            try:
                with self._reporter.phase("start"):
                    self._start(stack)
                with self._reporter.phase("train"):
                    self._train()
                with self._reporter.phase("collect"):
                    return self._result()
            except DLError:
                raise
            except Exception as error:  # a callback's, as callbacks run here
                text = f"{type(error).__name__}: {error}"
                raise WorkerError(
                    text, 0, "the driver", self._phase, traceback.format_exc()
                ) from error

    def _start(self, stack: ExitStack) -> None:
        """Learn the layout, write the first checkpoint, build the model on every worker."""
        import cloudpickle

        self._phase = "build model"
        self._master = Master(self._job, self._data, self._config.sync_every > 1)
        directory = CacheDirectory(self._spark, self._data.root)
        stack.callback(directory.remove_after_failure)
        self._store = CheckpointStore(directory.url)
        self._master.write_first(self._store, self._config.error_feedback)
        self._length = JobLength(self._config.iterations_per_job, 8 * self._master.slices.total)
        self._payload = self._context.broadcast(cloudpickle.dumps(self._master.assignment))
        stack.callback(self._payload.destroy)
        self._phase = "start workers"
        self._exchange = Exchange(
            self._context, self._world, functools.partial(warm_up_stage, self._task(0, 0))
        )
        stack.callback(self._exchange.close)
        self._planner = Planner(self._exchange)
        stack.callback(self._planner.close)
        stack.callback(self._release)

        def place(context: Any) -> list[bytes]:
            self._exchange.place()
            return []

        self._attempt(place, "start workers", self._config.start_timeout_s)

    def _task(self, first: int, last: int) -> ShuffleTask:
        return ShuffleTask(
            run_id=self._job.run_id,
            versions=self._versions,
            payload=self._payload,
            events=self._events.accumulator,
            world_size=self._world,
            cores=self._cores,
            wire=self._config.wire,
            state=self._state,
            sync_every=self._config.sync_every,
            checkpoints=self._store.url,
            epoch=self._epoch,
            first_step=first,
            last_step=last,
            start=self._start_point,
            learning_rate=self._master.learning_rate,
            clipnorm=self._master.clipnorm,
        )

    def _train(self) -> None:
        import keras

        model = self._master.model
        plan = self._master.replica.plan
        self._callback_list = keras.callbacks.CallbackList(
            [*self._callbacks],
            add_history=True,
            add_progbar=False,
            model=model,
            epochs=self._job.config.epochs,
            steps=plan.steps_per_epoch,
            verbose=0,
        )
        model.stop_training = False
        self._seconds: list[float] = []
        self._fit_seconds = time.monotonic()
        self._callback_list.on_train_begin()
        for epoch in range(self._job.config.epochs):
            self._epoch = epoch
            self._run_epoch()
            if model.stop_training:
                break
        self._phase = "end of training"
        self._master.finish(self._store, self._start_point)
        self._callback_list.on_train_end()
        self._fit_seconds = time.monotonic() - self._fit_seconds

    def _run_epoch(self) -> None:
        model = self._master.model
        steps = self._steps
        self._phase = f"train epoch {self._epoch}"
        self._callback_list.on_epoch_begin(self._epoch)
        self._take_changed_weights((self._epoch, 0))
        began = time.monotonic()
        self._logs.clear()
        self._rows.clear()
        step = 0
        while step < steps and not (step and model.stop_training):
            wanted = self._length.next * self._config.sync_every
            last = min(step + wanted, steps)
            self._run_steps(step, last)
            step = last
        self._master.load(self._store, (self._epoch, step))
        self._seconds.append(time.monotonic() - began)
        self._check_rows(step)
        last_logs = [self._logs[rank, step - 1] for rank in range(self._world)]
        logs = self._master.metrics(last_logs)
        following = (self._epoch + 1, 0)
        self._master.write_worker_states(self._store, following)
        self._move_to(StartPoint(self._start_point.weights, self._start_point.optimizer, following))
        if self._master.replica.validation_plan is not None:
            logs |= self._validate()
        self._phase = f"end of epoch {self._epoch}"
        self._callback_list.on_epoch_end(self._epoch, logs)
        self._reporter.epoch(self._epoch, logs)

    def _run_steps(self, first: int, last: int) -> None:
        """One job; its batch callbacks run when it is done."""
        task = self._task(first, last)
        began = time.monotonic()
        synchronizations = -(-(last - first) // self._config.sync_every)
        repeats = self._repeats

        def run(context: SparkContext) -> list[bytes]:
            # where the state was lost once it could be lost again: Spark keeps it this time
            safe = task if self._repeats == repeats else replace(task, state="shuffle")
            chain = self._planner.chain(safe)
            self._prepare(task)
            try:
                return chain.collect()
            finally:
                self._planner.remove(chain)

        self._attempt(
            run,
            f"epoch {self._epoch + 1} of {self._job.config.epochs}, steps {first} to {last - 1}",
            self._config.progress_timeout_s,
        )
        seconds = time.monotonic() - began
        self._length.took(seconds, synchronizations)
        self._timers.end_job(seconds, synchronizations)
        end = (self._epoch, last)
        self._move_to(StartPoint(end, end, end))
        for step in range(first, last):
            self._callback_list.on_train_batch_begin(step)
            self._callback_list.on_train_batch_end(step, dict(self._logs[0, step]))

    def _prepare(self, task: ShuffleTask) -> None:
        """Describe the next job of the epoch while this one runs."""
        first = task.last_step
        if first < self._steps:
            end = (task.epoch, first)
            last = min(first + self._length.next * task.sync_every, self._steps)
            self._planner.prepare(
                replace(task, first_step=first, last_step=last, start=StartPoint(end, end, end))
            )

    def _validate(self) -> dict[str, float]:
        self._phase = f"validate epoch {self._epoch}"
        task = self._task(0, 0)
        stage = self._exchange.function(functools.partial(validation_stage, task))
        received = self._attempt(
            lambda context: self._exchange.chain([("validation", stage)]).collect(),
            f"epoch {self._epoch + 1} of {self._job.config.epochs}, validation",
            self._config.progress_timeout_s,
        )
        return self._master.validation_metrics(received)

    def _attempt(self, action: Any, description: str, timeout_s: float) -> Any:
        """Run a job, again if Spark gave it up and restarts are left."""
        name = f"spark-dlobd {self._job.run_id}: {description}"
        while True:
            try:
                return self._runner.run(action, name, timeout_s)
            except JobLostError as error:
                if isinstance(error, StateLostOnHostError):
                    self._repeats += 1
                    times = f"repeat {self._repeats} for lost state"
                elif not error.repeatable or self._restarts == self._config.max_restarts:
                    raise error.final(self._phase, self._config.max_restarts) from error
                else:
                    self._restarts += 1
                    times = f"restart {self._restarts} of {self._config.max_restarts}"
                self._reporter.warn(f"{name} is run again from its checkpoint ({times}). {error}")

    def _release(self) -> None:
        """Ask the workers to let go of the fit; those that are lost have nothing left."""
        name = f"spark-dlobd {self._job.run_id}: release workers"

        def release(context: SparkContext) -> list[bytes]:
            stage = self._exchange.function(
                functools.partial(release_stage, self._job.run_id, sorted(self._slice_folders))
            )
            return self._exchange.chain([("release", stage)]).collect()

        try:
            with self._reporter.phase("collect"):
                self._runner.run(release, name, _RELEASE_TIMEOUT_S, alone=True)
        except TrainingError as error:
            self._reporter.warn(f"The workers were not asked to let go of the fit: {error}")

    def _move_to(self, start: StartPoint) -> None:
        """Go on from `start` and delete the checkpoints that nothing needs any more."""
        old, self._start_point = self._start_point, start
        for where in old.positions - start.positions:
            try:
                self._store.remove(*where)
            except OSError as error:
                # a copy of a task may be writing until Spark has ended it
                self._reporter.warn(f"{error}: this checkpoint goes when the fit ends.")

    def _take_changed_weights(self, where: tuple[int, int]) -> None:
        if self._master.write_changed_weights(self._store, where):
            self._move_to(replace(self._start_point, weights=where))

    def _hear(self, event: Event) -> None:
        """Note what a task tells; told again by a repeated task it says the same."""
        if isinstance(event, GradientSent):
            self._take_logs(event)
            self._rows[event.rank, event.step] = event.rows
            self._reporter.measured(event.rank, event.measured)
        if isinstance(event, SliceUpdated):
            self._slice_folders.add(event.folder)
        if isinstance(event, Worked):
            self._timers.take(event)

    def _take_logs(self, event: GradientSent) -> None:
        for step, logs in enumerate(event.logs, event.step):
            new = (event.rank, step) not in self._logs
            self._logs[event.rank, step] = logs
            if new and event.rank == 0:
                self._reporter.step(self._epoch, step, logs)

    def _check_rows(self, steps: int) -> None:
        plan = self._master.replica.plan
        expected = sum(plan.global_batch_sizes()[:steps])
        self._epoch_rows.append(expected)
        if sum(self._rows.values()) != expected:
            raise TrainingError(
                f"The workers read {sum(self._rows.values())} rows in epoch {self._epoch}, the "
                f"plan says {expected}: the cache was changed while it was read."
            )

    def _result(self) -> TrainResult:
        from spark_dlobd.training import keras_codec
        from spark_dlobd.training.optimizer_state import optimizer_state

        model, plan = self._master.model, self._master.replica.plan
        history = self._callback_list._history.history
        rule = self._master.rule
        return TrainResult(
            archive=keras_codec.model_to_archive(model),
            history={name: [float(v) for v in values] for name, values in history.items()},
            report={
                "weights_hash": self._master.weights_hash(),
                "rows_per_epoch": plan.total_rows,
                "steps_per_epoch": plan.steps_per_epoch,
                "plan": plan.describe(),
                "fit_seconds": self._fit_seconds,
                "epoch_seconds": self._seconds,
                "epoch_rows": self._epoch_rows,
                "ranks": self._timers.ranks(),
                "spark_seconds": self._timers.report()["scheduling"],
                "bytes_sent_per_step": allreduce_bytes(
                    self._master.slices.total * bytes_per_weight(self._config.wire),
                    self._world,
                    self._config.sync_every,
                ),
                "transport": f"spark shuffle: {self._config.wire}",
                "trainable_weights": sum(math.prod(v.shape) for v in model.trainable_variables),
                "weights": self._master.slices.total,
                "slices": list(self._master.slices.lengths),
                "cut": "between workers' weights" if rule is None else rule.reason,
                "synchronizations": self._timers.synchronizations,
                "phase_seconds": self._timers.report(),
                "last_job": self._timers.last_job,
                "slice_state": self._state,
                "restarts": self._restarts,
                "repeats_for_lost_state": self._repeats,
            },
            optimizer_state=optimizer_state(model.optimizer)
            if self._job.config.keep_optimizer
            else b"",
        )
