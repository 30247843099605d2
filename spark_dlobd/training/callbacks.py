"""The library's own Keras callbacks, around those of the user."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from spark_dlobd.job.target import Target
from spark_dlobd.processes.failure import NonFiniteLoss
from spark_dlobd.training.collective import Collective
from spark_dlobd.training.metric_states import merge_metrics
from spark_dlobd.training.monitors import Watched, check_logged, of_target
from spark_dlobd.training.state import check_same_weights

_FLUSH_EVERY_S = 0.5

# Keras callbacks that write files: two ranks on one host would overwrite each other.
_FILE_WRITERS = (
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.CSVLogger,
    keras.callbacks.TensorBoard,
    keras.callbacks.BackupAndRestore,
)


class LoopEvents(Protocol):
    """Where a rank tells what it does."""

    def phase(self, text: str) -> None:
        """Tell what the rank is doing now."""

    def steps(self, steps: list[tuple[int, int, dict[str, float]]]) -> None:
        """Tell ``(epoch, step, metrics)`` of finished steps."""

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Tell the metrics of an epoch over all rows."""


class GroupBegin(keras.callbacks.Callback):  # type: ignore[misc]
    """First of all callbacks: makes metrics and statistics those of all ranks.

    Parameters
    ----------
    group : Collective
        The ranks.
    steps_per_epoch, validation_steps : int
        Number of steps, equal on all ranks.
    on_epoch : callable
        Called with the epoch before its data is read.
    merge_statistics : callable
        Called once after the last step of an epoch.
    idle_in_validation : bool, default False
        Whether other ranks have validation rows and this one has none, so that its Keras
        does not validate.
    """

    def __init__(
        self,
        group: Collective,
        steps_per_epoch: int,
        validation_steps: int,
        on_epoch: Callable[[int], None],
        merge_statistics: Callable[[], None],
        idle_in_validation: bool = False,
    ) -> None:
        super().__init__()
        self._idle_in_validation = idle_in_validation
        self._group = group
        self._steps = steps_per_epoch
        self._validation_steps = validation_steps
        self._on_epoch = on_epoch
        self._merge_statistics = merge_statistics
        self._epoch = 0
        self._began = 0.0
        self._taken = 0
        self._live: dict[str, float] = {}
        self.weights_hash = ""
        self.epoch_seconds: list[float] = []
        """Seconds of the training steps of each epoch, validation left out."""
        self.epoch_steps: list[int] = []
        """Steps of each epoch; fewer where one was ended."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Point the reader at the epoch."""
        self._epoch = epoch
        self._began = time.monotonic()
        self._on_epoch(epoch)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Stop at a loss that is not finite; merge after the last step."""
        self._taken = batch + 1
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise NonFiniteLoss.at(loss, self._epoch, batch)
        if batch >= self._steps - 1:
            self.finish_epoch(logs)

    def finish_epoch(self, logs: dict[str, float] | None = None) -> None:
        """Merge what ranks hold apart; called by all ranks at the same step."""
        if self._group.size > 1:
            merge_metrics(self.model, self._group)
        self._live = self._results_that_are_variables(logs or {})
        self._merge_statistics()
        self.epoch_seconds.append(time.monotonic() - self._began)
        self.epoch_steps.append(self._taken)

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Merge metrics after the last step of a validation."""
        if batch >= self._validation_steps - 1 and self._group.size > 1:
            merge_metrics(self.model, self._group)

    def _take_validation(self, logs: dict[str, float]) -> None:
        """Merge metrics of no rows with those of the ranks that have validated."""
        self.model.reset_metrics()
        merge_metrics(self.model, self._group)
        for name, value in self.model.get_metrics_result().items():
            logs[f"val_{name}"] = float(value)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Give every callback on every rank the same numbers to decide on."""
        if self._idle_in_validation and logs is not None:
            self._take_validation(logs)
        if logs:
            logs.update(self._live)
        if self._group.size > 1 and logs:
            names = sorted(logs)
            own = np.array([float(logs[name]) for name in names], dtype=np.float64)
            for name, value in zip(names, self._group.gather(own).mean(axis=0), strict=True):
                logs[name] = float(value)
        self.weights_hash = check_same_weights(self.model, self._group, f"after epoch {epoch}")

    def _results_that_are_variables(self, logs: dict[str, float]) -> dict[str, float]:
        """Keras would read them after the validation, which uses the same variables."""
        found = self.model.get_metrics_result()
        if set(found) != set(logs):
            return {}  # a custom train_step logs something else
        return {name: float(value) for name, value in found.items() if hasattr(value, "assign")}


class GroupEnd(keras.callbacks.Callback):  # type: ignore[misc]
    """Last of all callbacks: ranks stop together or not at all.

    A callback that sets ``model.stop_training`` within an epoch is heard one
    step later, when the wish has travelled with the gradients.
    """

    def __init__(self, group: Collective, optimizer: Any, begin: GroupBegin, steps: int) -> None:
        super().__init__()
        self._group = group
        self._optimizer = optimizer
        self._begin = begin
        self._steps = steps

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Exchange the wish to stop."""
        if self._group.size == 1:
            if self.model.stop_training and batch < self._steps - 1:
                self._begin.finish_epoch(logs)
            return
        if self.model.stop_training:
            self._optimizer.stop_wish.assign(1)
            self.model.stop_training = False
        if int(self._optimizer.stop_agreed) and batch < self._steps - 1:
            self.model.stop_training = True
            self._begin.finish_epoch(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Stop after this epoch if any rank wants to."""
        if self._group.size == 1:
            return
        wish = bool(self.model.stop_training) or bool(int(self._optimizer.stop_wish))
        self.model.stop_training = bool(self._group.gather(np.array([int(wish)])).any())


class Telling(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells steps in bunches and epochs at once."""

    def __init__(self, events: LoopEvents, tell_metrics: bool) -> None:
        super().__init__()
        self._events = events
        self._tell_metrics = tell_metrics
        self._steps: list[tuple[int, int, dict[str, float]]] = []
        self._epoch = 0
        self._flushed = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Tell the phase."""
        self._epoch = epoch
        self._events.phase(f"train epoch {epoch}")

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Collect the step."""
        if self._tell_metrics:
            metrics = {name: float(value) for name, value in (logs or {}).items()}
            self._steps.append((self._epoch, batch, metrics))
        if time.monotonic() - self._flushed > _FLUSH_EVERY_S:
            self._events.phase(f"train epoch {self._epoch} step {batch}")
            self._flush()

    def _flush(self) -> None:
        if self._steps:
            self._events.steps(self._steps)
        self._steps = []
        self._flushed = time.monotonic()

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Tell the phase."""
        self._flush()
        self._events.phase(f"validate epoch {self._epoch}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Tell the epoch."""
        self._flush()
        if self._tell_metrics:
            self._events.epoch(epoch, {name: float(v) for name, v in (logs or {}).items()})


class CheckLogged(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends the training after the first epoch if it did not log what somebody waits for.

    It stands behind the callbacks of the user, which may add to the logs.
    """

    def __init__(self, watched: Sequence[Watched]) -> None:
        super().__init__()
        self._watched = tuple(watched)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Compare.

        Raises
        ------
        ConfigurationError
            The epoch has no such metric.
        """
        if epoch == 0:
            check_logged(self._watched, list(logs or {}))


class StopAtTarget(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends the training after the epoch that reaches the Param ``stopWhen``.

    Its metrics are those of all ranks, so all ranks decide alike.
    """

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = target

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Compare.

        Raises
        ------
        ConfigurationError
            The epoch has no such metric.
        """
        logs = logs or {}
        check_logged([of_target(self._target)], list(logs))
        if self._target.reached(float(logs[self._target.metric])):
            self.model.stop_training = True


def callbacks_of_rank(callbacks: Sequence[Any], rank: int) -> list[Any]:
    """Leave file writers to rank 0; everything else runs on every rank."""
    return [c for c in callbacks if rank == 0 or not isinstance(c, _FILE_WRITERS)]
