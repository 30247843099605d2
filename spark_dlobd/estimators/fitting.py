"""One fit from DataFrame to model, and several fits that share their data.

Runs on the driver.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from spark_dlobd.data.effect import check_effect
from spark_dlobd.data.materialize import materialized, missing_validation, nowhere_true
from spark_dlobd.data.request import Request
from spark_dlobd.data.sources import Sources, sources_of
from spark_dlobd.errors import TrainingError
from spark_dlobd.estimators.model import DLModel
from spark_dlobd.estimators.network import FittedNetwork
from spark_dlobd.estimators.preparation import Prepared, prepare
from spark_dlobd.estimators.recording import Recording
from spark_dlobd.training.monitors import check_validates

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from spark_dlobd.estimators.settings import FitSettings
    from spark_dlobd.job.dataset import DatasetRef
    from spark_dlobd.job.transformation import Transformation
    from spark_dlobd.tracking.reporter import Reporter


def fit_once(settings: FitSettings, dataset: DataFrame) -> DLModel:
    """Check, materialize, train."""
    began = time.monotonic()
    prepared = prepare(settings, dataset)
    with Recording(settings, prepared, began) as recording:
        with ExitStack() as stack:
            with recording.reporter.phase("materialize"):
                rows = materialized(prepared.rows, prepared.request, prepared.job.config.world_size)
                data = stack.enter_context(rows)
            trained = _train(prepared, dataset, data, recording)
        return _model(settings, trained, recording)


class SharedDataFits(Iterator[tuple[int, DLModel]]):
    """Fits of several estimators on one DataFrame, each distinct request written once.

    Where the files behind the DataFrame change between two fits it is written anew.
    The data goes away after the last fit, after the first failure, or with this
    object, whichever comes first, but never under a fit that still runs.
    """

    def __init__(self, estimators: Sequence[FitSettings], dataset: DataFrame) -> None:
        self._estimators = list(estimators)
        self._dataset = dataset
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._next = 0
        self._running = 0
        self._failed = False
        self._stack = ExitStack()
        self._data: dict[tuple[Request, int, Sources], DatasetRef] = {}

    def __iter__(self) -> SharedDataFits:
        return self

    def __next__(self) -> tuple[int, DLModel]:
        index = self._begin()
        try:
            return index, self._fit(self._estimators[index])
        except BaseException:
            self._failed = True
            raise
        finally:
            self._end()

    def _begin(self) -> int:
        with self._lock:
            if self._next >= len(self._estimators):
                raise StopIteration
            if self._failed:
                raise TrainingError("An earlier fit on the same data failed; its data is gone.")
            index = self._next
            self._next += 1
            self._running += 1
            return index

    def _end(self) -> None:
        with self._lock:
            self._running -= 1
            done = self._failed or self._next >= len(self._estimators)
            if done and not self._running:
                self._data.clear()
                self._stack.close()

    def _fit(self, settings: FitSettings) -> DLModel:
        began = time.monotonic()
        prepared = prepare(settings, self._dataset)
        with Recording(settings, prepared, began) as recording:
            with recording.reporter.phase("materialize"):
                world_size = prepared.job.config.world_size
                data = self._get(prepared.rows, prepared.request, world_size)
            trained = _train(prepared, self._dataset, data, recording)
            return _model(settings, trained, recording)

    def _get(self, rows: DataFrame, request: Request, world_size: int) -> DatasetRef:
        with self._writing:
            key = request, world_size, sources_of(rows)
            if key not in self._data:
                context = materialized(rows, request, world_size)
                self._data[key] = self._stack.enter_context(context)
            return self._data[key]

    def __del__(self) -> None:
        self._stack.close()


@dataclass(frozen=True)
class _Trained:
    """A network with what its training gave."""

    fitted: FittedNetwork
    history: dict[str, list[float]]


def _train(
    prepared: Prepared, dataset: DataFrame, data: DatasetRef, recording: Recording
) -> _Trained:
    """Train on materialized rows."""
    from spark_dlobd.job.plan import ShardPlan

    reporter, config = recording.reporter, prepared.job.config
    data = replace(data, reader=prepared.reader)
    counts = tuple(group.rows for group in data.train)
    plan = ShardPlan(counts, config.world_size, config.batch_size, config.seed)
    reporter.expect(plan.steps_per_epoch)
    reporter.dataset(data)
    _check_effect(prepared, data, reporter)
    recording.told |= _transformation_facts(prepared.job.config.transformation, reporter)
    validation = prepared.request.validation
    if validation is not None and (text := missing_validation(data, validation)):
        check_validates(prepared.waiting, nowhere_true(data, validation))
        reporter.warn(text)
    backend = prepared.choice.backend
    result = backend.fit(dataset.sparkSession, prepared.job, data, reporter)
    recording.told |= result.report
    recording.told |= {
        "rows": {"train": data.rows("train"), "validation": data.rows("validation")},
        "skipped_rows": data.skipped_rows,
        "materialized_bytes": data.bytes,
        "data_url": data.root,
        "reader": data.reader,
    }
    network = replace(
        prepared.untrained.network, archive=result.archive, optimizer_state=result.optimizer_state
    )
    return _Trained(replace(prepared.untrained, network=network), result.history)


def _check_effect(prepared: Prepared, data: DatasetRef, reporter: Reporter) -> None:
    """Refuse weights that leave nothing to learn, before anything starts."""
    outputs = zip(prepared.job.outputs, prepared.job.columns.y.names, strict=True)
    one_class = {
        part: output.problem in ("multiclass", "binary") and not output.positions
        for output, part in outputs
    }
    classes = [one_class[label.part] for label in prepared.job.columns.labels]
    with reporter.phase("materialize"):
        for warning in check_effect(data, prepared.job.config.class_weight, classes=classes):
            reporter.warn(warning)


def _transformation_facts(
    transformation: Transformation | None, reporter: Reporter
) -> dict[str, Any]:
    """What the report says of it; random numbers that do not repeat are warned of."""
    if transformation is None:
        return {}
    if transformation.draws:
        reporter.warn(
            f"transformation {transformation.name!r} draws random numbers that do not follow the "
            "Param seed, so a fit does not repeat. Give it a parameter called seed and draw with "
            "tf.random.stateless_* or tf.image.stateless_*, or use Keras layers."
        )
    return {"transformation": {"name": transformation.name, "traced": transformation.traced}}


def _model(settings: FitSettings, trained: _Trained, recording: Recording) -> DLModel:
    report = recording.complete(trained.fitted.network)
    return DLModel.from_training(trained.fitted, trained.history, report, cast(Any, settings))
