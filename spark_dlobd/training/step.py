"""The training step of a group: gradients averaged where the optimizer is applied.

The model keeps its own ``train_step``, stock or custom. Only the optimizer's
``apply`` is replaced on the instance, so whatever computes gradients works, and
an optimizer that wraps another (loss scaling) sees averaged gradients first and
takes the same decision on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from spark_dlobd.errors import ModelError
from spark_dlobd.job.plan import ShardPlan
from spark_dlobd.training.collective import Collective

if TYPE_CHECKING:
    from spark_dlobd.training.measure import CommunicationTime


class StepClock:
    """Position within the epoch and the weight of a rank's gradient there."""

    def __init__(self, plan: ShardPlan, ranks: Sequence[int]) -> None:
        self._steps = plan.steps_per_epoch
        self._scales = {rank: plan.gradient_scales(rank) for rank in ranks}
        self.position = tf.Variable(0, dtype=tf.int64, trainable=False, name="step_in_epoch")

    def restart(self) -> None:
        """Begin an epoch."""
        self.position.assign(0)

    def advance(self) -> None:
        """Count one step; inside the step's graph."""
        self.position.assign_add(1)

    def scale(self, rank: int, gradients: list[Any]) -> list[Any]:
        """Weigh the mean gradient of `rank`'s rows; inside the step's graph."""
        full, tail = self._scales[rank]
        if full == 1.0 and tail == 1.0:
            return gradients
        factor = tf.where(self.position == self._steps - 1, tail, full)
        return [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]


def dense(gradient: Any) -> Any:
    """Turn ``IndexedSlices`` into a plain tensor."""
    return tf.convert_to_tensor(gradient)


class GroupOptimizer:
    """Averages gradients over a group before the model's optimizer sees them.

    Parameters
    ----------
    model : keras.Model
        Compiled; its optimizer's ``apply`` is replaced until `restore`.
    group : Collective
        The ranks.
    clock : StepClock
        Weighs uneven shares.
    accumulation_steps : int, default 1
        Sum this many steps locally before one average and one update.
    communication : CommunicationTime, optional
        Times the average.
    """

    def __init__(
        self,
        model: Any,
        group: Collective,
        clock: StepClock,
        accumulation_steps: int = 1,
        communication: CommunicationTime | None = None,
    ) -> None:
        self._group = group
        self._clock = clock
        self._every = accumulation_steps
        self._communication = communication
        self._optimizer = model.optimizer
        self.stop_wish = tf.Variable(0, dtype=tf.int32, trainable=False, name="stop_wish")
        self.stop_agreed = tf.Variable(0, dtype=tf.int32, trainable=False, name="stop_agreed")
        if not self._optimizer.built:
            self._optimizer.build(model.trainable_variables)
        self._original: Callable[..., None] = self._optimizer.apply
        if accumulation_steps > 1:
            self._micro_step = tf.Variable(0, dtype=tf.int64, trainable=False, name="micro_step")
            self._sums = {
                id(variable): tf.Variable(tf.zeros_like(variable.value), trainable=False)
                for variable in model.trainable_variables
            }
        self._optimizer.apply = self._apply

    def restore(self) -> None:
        """Give the optimizer its own ``apply`` back."""
        del self._optimizer.apply

    def _apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        if trainable_variables is None:
            trainable_variables = self._optimizer._trainable_variables
        pairs = [
            (dense(gradient), variable)
            for gradient, variable in zip(grads, trainable_variables, strict=True)
            if gradient is not None
        ]
        variables = [variable for _, variable in pairs]
        gradients = self._clock.scale(self._group.rank, [gradient for gradient, _ in pairs])
        self._clock.advance()
        if self._every == 1:
            self._average_and_apply(gradients, variables)
        else:
            self._accumulate(gradients, variables)

    def _average_and_apply(self, gradients: list[Any], variables: list[Any]) -> None:
        averaged = self._average(gradients)
        if self._group.size > 1:
            self.stop_agreed.assign(self._group.any_flag(self.stop_wish))
        self._original(averaged, variables)

    def _average(self, gradients: list[Any]) -> list[Any]:
        if self._communication is None:
            return self._group.average_gradients(gradients)
        position = self._clock.position - 1  # the clock has advanced
        return self._communication.measured(self._group.average_gradients, gradients, position)

    def _accumulate(self, gradients: list[Any], variables: list[Any]) -> None:
        sums = [self._sums[id(variable)] for variable in variables]
        for total, gradient in zip(sums, gradients, strict=True):
            total.assign_add(gradient)
        self._micro_step.assign_add(1)

        def flush() -> tf.Tensor:
            self._average_and_apply([total / self._every for total in sums], variables)
            for total in sums:
                total.assign(tf.zeros_like(total))
            return tf.constant(True)

        tf.cond(self._micro_step % self._every == 0, flush, lambda: tf.constant(False))


def capture_gradients(model: Any, train_step: Callable[[Any], Any], data: Any) -> tuple[Any, Any]:
    """Run a ``train_step`` up to its gradients.

    Returns
    -------
    logs : dict
        What ``train_step`` returned.
    gradients : list of (gradient, variable)
        What it handed to the optimizer; gradients are None where the loss does
        not depend on the variable.

    Raises
    ------
    ModelError
        If ``train_step`` applied the optimizer not exactly once.
    """
    optimizer = model.optimizer
    before = optimizer.__dict__.get("apply")
    captured: list[list[tuple[Any, Any]]] = []

    def capture(grads: Sequence[Any], trainable_variables: Any = None) -> None:
        variables = trainable_variables or optimizer._trainable_variables
        captured.append(list(zip(grads, variables, strict=True)))

    optimizer.apply = capture
    try:
        logs = train_step(data)
    finally:
        if before is None:
            del optimizer.apply
        else:
            optimizer.apply = before
    if len(captured) != 1:
        raise ModelError(
            f"train_step of {type(model).__name__} called optimizer.apply {len(captured)} times; "
            "with jit_compile=True or virtual workers it must call it exactly once, on "
            "self.optimizer. Use jit_compile=False and the horovod backend for several calls."
        )
    return logs, captured[0]


def compile_step_without_apply(model: Any) -> None:
    """Let XLA compile all of the step but the communication, which it cannot.

    Replaces ``model.train_step`` on the instance; the model itself must then be
    compiled without ``jit_compile``.
    """
    original = model.train_step
    variables: list[Any] = []

    def gradients_of(data: Any) -> tuple[Any, list[Any]]:
        logs, pairs = capture_gradients(model, original, data)
        present = [(gradient, variable) for gradient, variable in pairs if gradient is not None]
        variables[:] = [variable for _, variable in present]
        return logs, [dense(gradient) for gradient, _ in present]

    compiled = tf.function(gradients_of, autograph=False, jit_compile=True, reduce_retracing=True)

    def train_step(data: Any) -> Any:
        logs, gradients = compiled(data)
        model.optimizer.apply(gradients, list(variables))
        return logs

    model.train_step = train_step
