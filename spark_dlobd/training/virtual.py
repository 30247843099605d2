"""Several virtual workers in one process: the numeric reference of the backends."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from spark_dlobd.training.state import mean_of, rank_seeds, seed_states, statistics
from spark_dlobd.training.step import StepClock, capture_gradients, dense


class VirtualWorkers:
    """Runs every worker's share of a step one after the other, then updates once.

    Each worker has its own moving statistics and random state, as real workers
    have; metrics are those of all rows by themselves.

    Parameters
    ----------
    model : keras.Model
        Compiled; its ``train_step`` is replaced on the instance and takes a tuple
        with one batch per worker.
    clock : StepClock
        Weighs uneven shares.
    size : int
        Number of workers.
    seed : int
        Of the fit.
    """

    def __init__(self, model: Any, clock: StepClock, size: int, seed: int) -> None:
        self._model = model
        self._clock = clock
        self._size = size
        self._own = statistics(model) + seed_states(model)
        values = [
            [np.asarray(v) for v in statistics(model)] + rank_seeds(model, seed, rank)
            for rank in range(size)
        ]
        self._saved = [
            [
                tf.Variable(value, dtype=v.dtype, trainable=False)
                for value, v in zip(per_rank, self._own, strict=True)
            ]
            for per_rank in values
        ]
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        self._train_step = model.train_step
        model.train_step = self.train_step

    def train_step(self, batches: tuple[Any, ...]) -> Any:
        """One step of all workers; traced into one graph."""
        sums: dict[int, Any] = {}
        variables: dict[int, Any] = {}
        logs: Any = None
        for rank, (batch, saved) in enumerate(zip(batches, self._saved, strict=True)):
            for variable, value in zip(self._own, saved, strict=True):
                variable.assign(value)
            logs, pairs = capture_gradients(self._model, self._train_step, batch)
            present = [(dense(g), v) for g, v in pairs if g is not None]
            scaled = self._clock.scale(rank, [g for g, _ in present])
            for gradient, (_, variable) in zip(scaled, present, strict=True):
                key = id(variable)
                variables[key] = variable
                sums[key] = sums[key] + gradient if key in sums else gradient
            for variable, value in zip(self._own, saved, strict=True):
                value.assign(tf.convert_to_tensor(variable.value))
        self._clock.advance()
        averaged = [total / self._size for total in sums.values()]
        self._model.optimizer.apply(averaged, list(variables.values()))
        return logs

    def average_statistics(self) -> None:
        """Replace every worker's moving statistics, and the model's, by their mean."""
        for index, variable in enumerate(statistics(self._model)):
            mean = mean_of([np.asarray(saved[index]) for saved in self._saved])
            variable.assign(mean)
            for saved in self._saved:
                saved[index].assign(mean)

    def restore(self) -> None:
        """Give the model its own ``train_step`` back."""
        del self._model.train_step
