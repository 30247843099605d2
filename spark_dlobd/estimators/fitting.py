"""One fit from DataFrame to model, and several fits that share their data.

Runs on the driver.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from spark_dlobd.data.effect import check_effect
from spark_dlobd.data.materialize import materialized, missing_validation, nowhere_true
from spark_dlobd.data.request import Request
from spark_dlobd.data.sources import Sources, sources_of
from spark_dlobd.errors import TrainingError
from spark_dlobd.estimators.model import DLModel
from spark_dlobd.estimators.preparation import Prepared, prepare
from spark_dlobd.report.build import Settings, build_report
from spark_dlobd.report.network import network_facts
from spark_dlobd.tracking.facts import system_facts
from spark_dlobd.tracking.last_words import MlflowPlace, last_words
from spark_dlobd.tracking.reporter import Reporter, status_of
from spark_dlobd.training.monitors import check_validates

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from spark_dlobd.estimators.estimator import DLEstimator
    from spark_dlobd.job.dataset import DatasetRef
    from spark_dlobd.job.train_job import TrainResult
    from spark_dlobd.tracking.base import Tracker

logger = logging.getLogger("spark_dlobd")


def fit_once(estimator: DLEstimator, dataset: DataFrame) -> DLModel:
    """Check, materialize, train."""
    began = time.monotonic()
    fit = _Fit(estimator, prepare(estimator, dataset), began)
    with fit.tracked(), ExitStack() as stack:
        with fit.reporter.phase("materialize"):
            data = stack.enter_context(materialized(dataset, fit.request, fit.world_size))
        return fit.train(dataset, data)


class SharedDataFits(Iterator[tuple[int, DLModel]]):
    """Fits of several estimators on one DataFrame, each distinct request written once.

    Where the files behind the DataFrame change between two fits it is written anew.
    The data goes away after the last fit, after the first failure, or with this
    object, whichever comes first, but never under a fit that still runs.
    """

    def __init__(self, estimators: Sequence[DLEstimator], dataset: DataFrame) -> None:
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

    def _fit(self, estimator: DLEstimator) -> DLModel:
        began = time.monotonic()
        fit = _Fit(estimator, prepare(estimator, self._dataset), began)
        with fit.tracked():
            with fit.reporter.phase("materialize"):
                data = self._get(fit.request, fit.world_size)
            return fit.train(self._dataset, data)

    def _get(self, request: Request, world_size: int) -> DatasetRef:
        with self._writing:
            key = request, world_size, sources_of(self._dataset)
            if key not in self._data:
                context = materialized(self._dataset, request, world_size)
                self._data[key] = self._stack.enter_context(context)
            return self._data[key]

    def __del__(self) -> None:
        self._stack.close()


class _Fit:
    """One training with its reporter and report."""

    def __init__(self, estimator: DLEstimator, prepared: Prepared, began: float) -> None:
        self._estimator = estimator
        self._prepared = prepared
        config = prepared.job.config
        self._settings = Settings(
            backend=prepared.choice.backend.name,
            backend_reason=prepared.choice.reason,
            workers=config.world_size,
            batch_size=config.batch_size,
            seed=config.seed,
            system=system_facts(),
            network=network_facts(prepared.job.model.archive),
        )
        self._told: dict[str, Any] = {}
        self._report: dict[str, Any] = {}
        self._trackers = _trackers(estimator)
        self.reporter = Reporter(
            epochs=config.epochs,
            batch_size=config.batch_size,
            trackers=self._trackers,
            verbose=config.verbose,
            began=began,
        )
        self.reporter.seconds["prepare"] = self.reporter.observed.now

    @property
    def request(self) -> Request:
        """What is to be materialized."""
        return self._prepared.request

    @property
    def world_size(self) -> int:
        """For how many workers."""
        return self._prepared.job.config.world_size

    def tracked(self) -> _Tracked:
        """Context that opens the trackers' run and ends it as the fit ended."""
        return _Tracked(self)

    def train(self, dataset: DataFrame, data: DatasetRef) -> DLModel:
        """Train on materialized rows."""
        from spark_dlobd.job.plan import ShardPlan

        prepared = self._prepared
        config = prepared.job.config
        data = replace(data, reader=prepared.reader)
        counts = tuple(group.rows for group in data.train)
        plan = ShardPlan(counts, config.world_size, config.batch_size, config.seed)
        self.reporter.expect(plan.steps_per_epoch)
        self.reporter.dataset(data)
        self._check_effect(data)
        validation = self.request.validation
        if validation is not None and (text := missing_validation(data, validation)):
            check_validates(self._prepared.waiting, nowhere_true(data, validation))
            self.reporter.warn(text)
        backend = prepared.choice.backend
        result = backend.fit(dataset.sparkSession, prepared.job, data, self.reporter)
        self._told |= result.report
        self._told |= {
            "rows": {"train": data.rows("train"), "validation": data.rows("validation")},
            "skipped_rows": data.skipped_rows,
            "materialized_bytes": data.bytes,
            "data_url": data.root,
            "reader": data.reader,
        }
        return self._model(result)

    def _check_effect(self, data: DatasetRef) -> None:
        """Refuse weights that leave nothing to learn, before anything starts."""
        job = self._prepared.job
        classes = job.model.output.problem != "regression"
        with self.reporter.phase("materialize"):
            for warning in check_effect(data, job.config.class_weight, classes=classes):
                self.reporter.warn(warning)

    def complete_report(self) -> None:
        """Derive the report from what was told; the model holds the same dict.

        A report that cannot be derived is no reason to lose a trained model.
        """
        reporter = self.reporter
        try:
            self._report |= build_report(
                self._settings,
                self._told,
                reporter.observed,
                reporter.seconds,
                reporter.warnings,
                self._prepared.target,
            )
        except Exception:
            logger.exception("The report of this fit has only what the backend told.")
            facts = {"seconds": reporter.seconds, "warnings": reporter.warnings}
            self._report |= {**asdict(self._settings), **self._told, **facts}

    def _model(self, result: TrainResult) -> DLModel:
        model = DLModel.from_training(
            self._prepared.job.model,
            replace(result, report=self._report),
            self._prepared.job.columns,
            self._prepared.label_metadata,
            self._estimator,
        )
        self.trained = model
        return model


class _Tracked:
    def __init__(self, fit: _Fit) -> None:
        self._fit = fit
        self._place = MlflowPlace(fit._trackers)

    def __enter__(self) -> None:
        fit = self._fit
        estimator = fit._estimator
        params = {"network": fit._settings.network}
        params |= {param.name: value for param, value in estimator.extractParamMap().items()}
        tags = {
            "backend": fit._settings.backend,
            "backend_reason": fit._settings.backend_reason,
            "spark_dlobd.run_id": fit._prepared.job.run_id,
        }
        logger.info("training with backend %s: %s", tags["backend"], tags["backend_reason"])
        fit.reporter.start(params, tags)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        fit = self._fit
        fit.complete_report()
        if error is None:
            model = fit.trained.getKerasModel() if fit._trackers else None
            with fit.reporter.phase("log"):
                fit.reporter.finish("FINISHED", fit._report, model)
            # Known only now; the model holds the same dict.
            fit._report |= _where_tracked(fit._trackers)
        else:
            fit.reporter.finish(status_of(error), fit._report)
        self._say(error is None)

    def _say(self, trained: bool) -> None:
        """Print the last line; what it cannot say is no reason to lose a trained model."""
        fit, reporter = self._fit, self._fit.reporter
        try:
            sentences = self._place.sentences()
            if trained:
                seconds = reporter.observed.now
                sentences = [
                    *last_words(fit._report, reporter.history, reporter.epochs, seconds),
                    *sentences,
                ]
            if sentences:
                reporter.say(sentences)
        except Exception:
            logger.exception("The last line of this fit could not be made.")


def _where_tracked(trackers: Sequence[Tracker]) -> dict[str, str]:
    """Ids under which MLflow has the fit, if it does."""
    found = {
        f"mlflow_{name}": getattr(tracker, name, None)
        for tracker in trackers
        for name in ("run_id", "model_id")
    }
    return {name: value for name, value in found.items() if value is not None}


def _trackers(estimator: DLEstimator) -> list[Tracker]:
    """Trackers of one fit; fits that run at the same time do not share one."""
    if estimator.getTracking() == "none":
        return []
    tracker = estimator.tracker
    if tracker is None:
        from spark_dlobd.tracking.mlflow import MlflowTracker

        return [MlflowTracker()]
    new = getattr(tracker, "new", None)
    return [new() if new is not None else tracker]
