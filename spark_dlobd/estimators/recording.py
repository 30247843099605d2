"""What is kept of one fit: its run in the trackers, its report and its last words.

Runs on the driver.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from spark_dlobd.processes.machine import system_facts
from spark_dlobd.report.build import Settings, build_report
from spark_dlobd.report.network import network_facts
from spark_dlobd.tracking.last_words import last_words
from spark_dlobd.tracking.reporter import Reporter, status_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from spark_dlobd.estimators.preparation import Prepared
    from spark_dlobd.estimators.settings import FitSettings
    from spark_dlobd.job.network import Network
    from spark_dlobd.tracking.base import Tracker

logger = logging.getLogger("spark_dlobd")


class Recording:
    """Opens the run of a fit and ends it as the fit ends.

    Parameters
    ----------
    settings : FitSettings
        Of the fit.
    prepared : Prepared
        The same, checked.
    began : float
        When the fit began, of ``time.monotonic``.
    """

    def __init__(self, settings: FitSettings, prepared: Prepared, began: float) -> None:
        config = prepared.job.config
        self._params = {param.name: value for param, value in settings.extractParamMap().items()}
        self._params["numTrainWorkers"] = config.world_size  # which the rule for 0 has chosen
        self._prepared = prepared
        self._known = Settings(
            backend=prepared.choice.backend.name,
            backend_reason=prepared.choice.reason,
            workers=config.world_size,
            batch_size=config.batch_size,
            seed=config.seed,
            system=system_facts(),
            network=network_facts(prepared.job.network.archive),
        )
        self._trackers = _trackers(settings)
        self.told: dict[str, Any] = {}
        """What the backend reports, and facts about the rows; the fit adds to it."""
        self.reporter = Reporter(
            epochs=config.epochs,
            batch_size=config.batch_size,
            trackers=self._trackers,
            verbose=config.verbose,
            began=began,
        )
        self.reporter.seconds["prepare"] = self.reporter.observed.now

    def __enter__(self) -> Self:
        tags = {
            "backend": self._known.backend,
            "backend_reason": self._known.backend_reason,
            "spark_dlobd.run_id": self._prepared.job.run_id,
        }
        logger.info("training with backend %s: %s", tags["backend"], tags["backend_reason"])
        self.reporter.start({"network": self._known.network, **self._params}, tags)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if error is not None:
            self.reporter.finish(status_of(error), self._report())
            self._say()

    def complete(self, network: Network) -> dict[str, Any]:
        """End the run of a fit that came to its end, and return its whole report.

        Parameters
        ----------
        network : Network
            What was trained.
        """
        report = self._report()
        with self.reporter.phase("log"):
            self.reporter.finish("FINISHED", report, self._keras_model(network))
        # known only now: what logging took, and where it went
        seconds = {**report["seconds"], "log": self.reporter.seconds["log"]}
        report = {**report, "seconds": seconds, **self.reporter.ids()}
        self._say(report)
        return report

    def _say(self, report: dict[str, Any] | None = None) -> None:
        """Print the last line; what it cannot say is no reason to lose a trained model."""
        reporter = self.reporter
        try:
            sentences = []
            if report is not None:
                seconds = reporter.observed.now
                sentences = last_words(report, reporter.history, reporter.epochs, seconds)
            sentences += reporter.last_words()
            if sentences:
                reporter.say(sentences)
        except Exception:
            logger.exception("The last line of this fit could not be made.")

    def _keras_model(self, network: Network) -> Any:
        """What trackers log; nobody rebuilds it for nothing."""
        if not self._trackers:
            return None
        from spark_dlobd.training import keras_codec

        return keras_codec.network_to_model(network)

    def _report(self) -> dict[str, Any]:
        """Derive the report; one that cannot be derived is no reason to lose a trained model."""
        reporter = self.reporter
        try:
            return {
                **build_report(
                    self._known,
                    self.told,
                    reporter.observed,
                    reporter.seconds,
                    reporter.warnings,
                    self._prepared.target,
                )
            }
        except Exception:
            logger.exception("The report of this fit has only what the backend told.")
            facts = {"seconds": reporter.seconds, "warnings": reporter.warnings}
            return {**asdict(self._known), **self.told, **facts}


def _trackers(settings: FitSettings) -> list[Tracker]:
    """What the fit is to be recorded by."""
    if settings.getTracking() == "none":
        return []
    if settings.tracker is not None:
        return [settings.tracker]
    from spark_dlobd.tracking.mlflow import MlflowTracker

    return [MlflowTracker()]
