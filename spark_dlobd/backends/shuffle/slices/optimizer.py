"""The optimizer of one slice: Keras's own, on the elements that the slice holds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spark_dlobd.backends.shuffle.slices.optimizer_state import owners
from spark_dlobd.backends.shuffle.slices.plan import SlicePlan, empty_aligned, is_aligned
from spark_dlobd.backends.shuffle.slices.variables import (
    Block,
    VariableSpec,
    blocks,
    build_variable,
)
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.training.custom_objects import registered

# Below the size from which BLAS splits a dot product over threads, so that a sum
# of squares is the same on every machine of a kind.
_DOT_ELEMENTS = 8192


class SliceOptimizer:
    """Runs on each worker. Updates one slice of the parameters.

    Holds the fp32 weights of the slice and the optimizer's state for them, and
    gives the result of the whole Keras optimizer: clipping, weight decay, averages
    of weights, gradient accumulation and schedules are Keras's own code.

    Parameters
    ----------
    optimizer_config : mapping or str
        Serialized Keras optimizer.
    plan : SlicePlan
        Cut as `cut_rule` says.
    number : int
        Of this slice.
    variables : sequence of VariableSpec
        All variables of the plan.
    custom_objects : mapping, optional
        Registered name -> class or function.
    jit_compile : bool, optional
        Whether XLA compiles the update. Default: where elements may be cut
        anywhere, as an update is one pass over memory then; not for whole
        variables, where compiling takes seconds for a hundred of them.

    Notes
    -----
    A slice without elements, or of which no element gets a gradient, has no state
    and keeps its weights.

    Examples
    --------
    >>> plan = SlicePlan.of([4], 2)
    >>> optimizer = SliceOptimizer("sgd", plan, 1, [VariableSpec("kernel", (4,))])
    >>> optimizer.load(plan.cut(np.arange(4, dtype=np.float32))[1])
    >>> optimizer.apply(np.ones(2, np.float32), learning_rate=0.5).tolist()
    [1.5, 2.5]
    """

    def __init__(
        self,
        optimizer_config: Mapping[str, Any] | str,
        plan: SlicePlan,
        number: int,
        variables: Sequence[VariableSpec],
        custom_objects: Mapping[str, Any] | None = None,
        jit_compile: bool | None = None,
    ) -> None:
        self._config = json.loads(json.dumps(optimizer_config))
        self._custom_objects = custom_objects
        self._whole = plan.whole_variables
        self._jit = not self._whole if jit_compile is None else jit_compile
        self._start, stop = plan.bounds(number)
        self._size = stop - self._start
        self._blocks = blocks(plan, number, variables)
        self._active = any(block.variable.trained for block in self._blocks)
        self._variables: list[Any] = []
        self._optimizer: Any = None
        self._step: Any = None
        self._passive: NDArray[np.float32] | None = None

    def load(
        self, weights: NDArray[np.float32], state: Sequence[NDArray[Any]] | None = None
    ) -> None:
        """Take weights, and a state or else the initial one.

        Parameters
        ----------
        weights : ndarray of float32, shape (length,)
            Of this slice.
        state : sequence of ndarray, optional
            From `state` or `split_state`.

        Raises
        ------
        ConfigurationError
            If weights or state are not those of this slice.
        """
        self._check(weights, "weights")
        if not self._active:
            self._passive = np.array(weights)
            self._check_state(state or [], [])
            return
        parts = self._gather(weights)
        if self._optimizer is None or state is None:
            self._build(parts)
        else:
            for variable, part in zip(self._variables, parts, strict=True):
                variable.assign(part.reshape(variable.shape))
        if state is not None:
            own = self._optimizer.variables
            self._check_state(state, own)
            for variable, value in zip(own, state, strict=True):
                variable.assign(np.reshape(value, variable.shape))

    def initial_state(self, weights: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Load `weights` and return the state before the first update."""
        self.load(weights)
        return self.state()

    def state(self) -> list[NDArray[Any]]:
        """Return all variables of the optimizer: counters, learning rate, moments, averages.

        The arrays are read-only and do not change with later updates.
        """
        self._check_loaded()
        return [_view(variable) for variable in self._optimizer.variables] if self._active else []

    def weights(self) -> NDArray[np.float32]:
        """Return the weights, shape ``(length,)``: read-only, unchanged by later updates."""
        self._check_loaded()
        if self._passive is not None:
            flat = self._passive
        elif len(self._blocks) == 1:
            flat = _view(self._variables[0]).reshape(-1)
        else:
            flat = empty_aligned(self._size)
            for block, variable in zip(self._blocks, self._variables, strict=True):
                self._scatter(block, _view(variable).reshape(-1), flat)
        flat.flags.writeable = False
        return flat

    def apply(
        self,
        gradient: NDArray[np.float32],
        *,
        clip_scale: float | None = None,
        learning_rate: float | None = None,
    ) -> NDArray[np.float32]:
        """Update once.

        Parameters
        ----------
        gradient : ndarray of float32, shape (length,)
            Averaged over workers. It is read in place when it comes from
            `empty_aligned`; do not write to it before this returns.
        clip_scale : float, optional
            From `clip_scale`; needed with ``global_clipnorm`` and only then.
        learning_rate : float, optional
            Replaces the learning rate from this update on.

        Returns
        -------
        ndarray of float32, shape (length,)
            The new weights, as `weights` gives them.

        Raises
        ------
        ConfigurationError
            If `gradient` is not that of this slice, `clip_scale` is missing or
            unexpected, or `learning_rate` meets a schedule.
        """
        self._check(gradient, "gradient")
        self._check_loaded()
        if not self._active:
            return self.weights()
        clips = _global_clipnorm(self._optimizer)
        if clips is not (clip_scale is not None):
            raise ConfigurationError(
                f"clip_scale must be given if and only if the optimizer has a global_clipnorm. "
                f"Got clip_scale={clip_scale}, "
                f"global_clipnorm={self._optimizer.global_clipnorm}."
            )
        if learning_rate is not None:
            self._set_learning_rate(learning_rate)
        gradients = [
            _tensor(part)
            for block, part in zip(self._blocks, self._gather(gradient), strict=True)
            if block.variable.trained
        ]
        self._step(gradients, tf.constant(1.0 if clip_scale is None else clip_scale, tf.float32))
        return self.weights()

    def sum_of_squares(self, gradient: NDArray[np.float32]) -> float:
        """Sum over what the coming update clips, for ``global_clipnorm``.

        That is the gradient after loss scaling and accumulation; 0.0 when the
        coming call of `apply` only accumulates.

        Parameters
        ----------
        gradient : ndarray of float32, shape (length,)
            As for `apply`.
        """
        self._check(gradient, "gradient")
        self._check_loaded()
        if not self._active:
            return 0.0
        optimizer = self._optimizer
        steps = optimizer.gradient_accumulation_steps or 1
        if (int(optimizer._iterations) + 1) % steps:
            return 0.0
        total = 0.0
        for index, (block, part) in enumerate(
            zip(self._blocks, self._gather(gradient), strict=True)
        ):
            if not block.variable.trained:
                continue
            if optimizer.loss_scale_factor is not None:
                part = part / np.float32(optimizer.loss_scale_factor)
            if steps > 1:
                sums = _view(optimizer._accumulated_gradients[index]).reshape(-1)
                part = (part + sums) / np.float32(steps)
            total += _squares(part)
        return total

    def finalize(self) -> NDArray[np.float32]:
        """End training as Keras's ``fit`` does: averaged weights replace the weights.

        Returns
        -------
        ndarray of float32, shape (length,)
            The final weights; the same as before without ``use_ema``.
        """
        self._check_loaded()
        if self._active:
            self._optimizer.finalize_variable_values(self._variables)
        return self.weights()

    def _build(self, parts: Sequence[NDArray[np.float32]]) -> None:
        with registered(self._custom_objects):
            optimizer = _optimizer(self._config)
            self._variables = [
                build_variable(block.variable, part)
                for block, part in zip(self._blocks, parts, strict=True)
            ]
            excluded = [
                variable
                for block, variable in zip(self._blocks, self._variables, strict=True)
                if not block.variable.decay
            ]
            if excluded:
                optimizer.exclude_from_weight_decay(var_list=excluded)
            if self._whole:
                owners(optimizer, [block.variable for block in self._blocks])
            optimizer.build(self._variables)
        self._optimizer = optimizer
        self._step = self._traced(optimizer)

    def _traced(self, optimizer: Any) -> Any:
        trained = [block.variable.trained for block in self._blocks]
        variables = self._variables
        clips = _global_clipnorm(optimizer)

        def step(gradients: list[Any], scale: Any) -> None:
            remaining = iter(gradients)
            shaped = [
                tf.reshape(next(remaining), variable.shape) if gets_gradient else None
                for variable, gets_gradient in zip(variables, trained, strict=True)
            ]
            if clips:
                # Keras would take the norm of this slice alone.
                optimizer._clip_gradients = lambda found: [g * scale for g in found]
            optimizer.apply(shaped, variables)

        return tf.function(step, autograph=False, jit_compile=self._jit)

    def _gather(self, flat: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Elements of each block; a view where they lie together."""
        found = []
        for block in self._blocks:
            views = [flat[start - self._start : stop - self._start] for start, stop in block.pieces]
            if len(views) == 1:
                found.append(views[0])
            else:
                found.append(np.concatenate(views, out=empty_aligned(block.variable.size)))
        return found

    def _scatter(
        self, block: Block, values: NDArray[np.float32], flat: NDArray[np.float32]
    ) -> None:
        offset = 0
        for start, stop in block.pieces:
            length = stop - start
            flat[start - self._start : stop - self._start] = values[offset : offset + length]
            offset += length

    def _set_learning_rate(self, learning_rate: float) -> None:
        try:
            self._optimizer.learning_rate = learning_rate
        except TypeError as error:
            raise ConfigurationError(
                f"learning_rate={learning_rate} cannot replace the learning-rate schedule of "
                f"{type(self._optimizer).__name__}. Give the optimizer a number to let a callback "
                "change it."
            ) from error

    def _check(self, flat: NDArray[Any], what: str) -> None:
        if flat.shape != (self._size,) or flat.dtype != np.float32:
            raise ConfigurationError(
                f"{what} of this slice must be float32 of shape ({self._size},). Got {flat.dtype} "
                f"of shape {flat.shape}."
            )

    def _check_loaded(self) -> None:
        if self._optimizer is None and self._passive is None:
            raise ConfigurationError("The slice has no weights yet. Call load() first.")

    def _check_state(self, state: Sequence[NDArray[Any]], own: Sequence[Any]) -> None:
        expected = [math.prod(variable.shape) for variable in own]
        given = [int(np.size(value)) for value in state]
        if given != expected:
            raise ConfigurationError(
                f"The state of this slice has {len(expected)} arrays of {expected} elements. Got "
                f"{len(given)} of {given}: it belongs to another slice or optimizer."
            )


def clip_scale(total: float, clipnorm: float) -> float:
    """Runs on each worker. Factor by which ``global_clipnorm`` shrinks every gradient.

    Parameters
    ----------
    total : float
        Sum of `SliceOptimizer.sum_of_squares` over all slices.
    clipnorm : float
        The optimizer's ``global_clipnorm``.

    Returns
    -------
    float
        ``min(1, clipnorm / norm)`` in Keras's own float32 arithmetic; NaN if the
        norm is not finite, as Keras has it.

    Examples
    --------
    >>> clip_scale(25.0, 1.0)
    0.20000000298023224
    """
    one, clip = np.float32(1.0), np.float32(clipnorm)
    with np.errstate(all="ignore"):
        norm = np.sqrt(np.float32(total))
        return float(clip * np.minimum(one / norm, one / clip) + (norm - norm))


def _optimizer(config: Any) -> Any:
    if isinstance(config, str):
        return keras.optimizers.get(config)
    # keras.optimizers.get does not take the config of Lamb; a copy, as Keras changes it.
    return keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))


def _global_clipnorm(optimizer: Any) -> bool:
    return bool(optimizer.global_clipnorm and optimizer.global_clipnorm > 0)


def _squares(part: NDArray[np.float32]) -> float:
    total = 0.0
    for start in range(0, part.size, _DOT_ELEMENTS):
        chunk = part[start : start + _DOT_ELEMENTS]
        total += float(np.dot(chunk, chunk))
    return total


def _view(variable: Any) -> NDArray[Any]:
    """Value of a variable without a copy: TensorFlow copies on a write to shared memory."""
    value: NDArray[Any] = np.asarray(variable.value.read_value())
    value.flags.writeable = False
    return value


def _tensor(part: NDArray[np.float32]) -> Any:
    if part.size and is_aligned(part) and part.flags.writeable:
        return tf.experimental.dlpack.from_dlpack(part.__dlpack__())
    return tf.convert_to_tensor(part)
