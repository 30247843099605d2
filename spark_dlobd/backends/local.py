"""Training in the driver's process: the numeric reference and the debugger."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from spark_dlobd.backends.base import BackendConfig
from spark_dlobd.errors import DLError, NonFiniteLossError, WorkerError
from spark_dlobd.processes.python_worker import give_back_memory

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_dlobd.job.dataset import DatasetRef
    from spark_dlobd.job.train_job import TrainJob, TrainResult
    from spark_dlobd.tracking.reporter import Reporter


@dataclass(frozen=True)
class LocalConfig(BackendConfig):
    """Train in the driver's process. It has no options.

    With ``numTrainWorkers=1`` this is plain Keras ``fit``. With more, that many
    virtual workers compute one after the other what real workers would compute
    at the same time, with the same rows, batches and updates. A debugger set in
    a ``train_step`` or callback stops on the driver.
    """

    backend_class: ClassVar[str] = "spark_dlobd.backends.local:LocalBackend"


class LocalBackend:
    """One process, N virtual workers."""

    name: ClassVar[str] = "local"
    keeps_optimizer: ClassVar[bool] = True

    def __init__(self, config: LocalConfig) -> None:
        self._config = config

    def check(self, spark: SparkSession, job: TrainJob) -> None:
        """Accept every job: nothing but the driver is needed."""

    def fit(
        self, spark: SparkSession, job: TrainJob, data: DatasetRef, reporter: Reporter
    ) -> TrainResult:
        """Train in this process."""
        import copy
        import traceback
        from dataclasses import replace

        from spark_dlobd.processes.failure import NonFiniteLoss
        from spark_dlobd.training.collective import SingleProcess
        from spark_dlobd.training.loop import LoopOptions, build_model, train_rank

        events = _ReporterEvents(reporter)
        # each rank gets its own copies of the callbacks, here too
        callbacks = copy.deepcopy(job.config.callbacks)
        job = replace(job, config=replace(job.config, callbacks=callbacks))
        try:
            with reporter.phase("start"):
                model = build_model(job)
            with reporter.phase("train"), _users_random_numbers:
                result = train_rank(
                    model,
                    job,
                    data,
                    SingleProcess(),
                    events,
                    LoopOptions(
                        virtual_workers=job.config.world_size,
                        measured=functools.partial(reporter.measured, 0),
                    ),
                )
        except DLError:
            raise
        except NonFiniteLoss as error:
            raise NonFiniteLossError(str(error), 0, "the driver", events.current) from error
        except Exception as error:
            raise WorkerError(
                f"{type(error).__name__}: {error}",
                0,
                "the driver",
                events.current,
                traceback.format_exc(),
            ) from error
        finally:
            give_back_memory()  # the data path keeps it for the next step
        facts = {"transport": "none (one process)", "bytes_sent_per_step": 0.0}
        return replace(result, report={**result.report, **facts})


class _RandomNumbers:
    """Gives Python and numpy their state back: a fit seeds them, and this is the user's process.

    Of fits that overlap in time the first keeps the state and the last returns it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fits = 0
        self._state: tuple[Any, Any] = (None, None)

    def __enter__(self) -> None:
        import random

        import numpy as np

        with self._lock:
            if not self._fits:
                self._state = random.getstate(), np.random.get_state()
            self._fits += 1

    def __exit__(self, *_: object) -> None:
        import random

        import numpy as np

        with self._lock:
            self._fits -= 1
            if not self._fits:
                random.setstate(self._state[0])
                np.random.set_state(self._state[1])


_users_random_numbers = _RandomNumbers()


class _ReporterEvents:
    """Tells the reporter directly."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.current = "start"

    def phase(self, text: str) -> None:
        self.current = text
        self._reporter.worker_phase(text)

    def steps(self, steps: list[tuple[int, int, dict[str, float]]]) -> None:
        self._reporter.steps(steps)

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        self._reporter.epoch(epoch, metrics)
