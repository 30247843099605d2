"""The state of the whole Keras optimizer from those of all slices, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.backends.shuffle.slices.plan import SlicePlan
from spark_dlobd.backends.shuffle.slices.variables import (
    Block,
    VariableSpec,
    blocks,
    build_variable,
    check_plan,
)
from spark_dlobd.errors import ConfigurationError, WorkersDisagreeError

# A variable of an optimizer: which of the variables it was built on it belongs to
# (None: to all, like the iteration count), and the how manieth of those it is.
Slot = tuple[int | None, int]


def join_states(
    plan: SlicePlan,
    states: Sequence[Sequence[NDArray[Any]]],
    full_optimizer: Any,
    variables: Sequence[VariableSpec],
) -> None:
    """Runs on the driver. Give the whole optimizer the state of its slices.

    Parameters
    ----------
    plan : SlicePlan
        What the slices were cut by.
    states : sequence of sequence of ndarray
        ``SliceOptimizer.state()`` of every slice, in order.
    full_optimizer : keras.optimizers.Optimizer
        Of the same config, built on the trainable variables of the model; its
        variables are assigned. What no slice has a state of keeps its value.
    variables : sequence of VariableSpec
        As given to the slices.

    Raises
    ------
    ConfigurationError
        If a state does not fit its slice.
    WorkersDisagreeError
        If slices differ in what they share, e.g. in the iteration count.
    """
    check_plan(plan, variables)
    _check_count(plan, states)
    full = _full_slots(full_optimizer, variables)
    shared: dict[Slot, NDArray[Any]] = {}
    whole: dict[Slot, NDArray[Any]] = {}
    flat: dict[int, NDArray[Any]] = {}
    for number, state in enumerate(states):
        built = blocks(plan, number, variables)
        if not _has_state(built):
            continue
        slots = _slots(full_optimizer, [block.variable for block in built])
        _check_length(number, state, slots)
        for (owner, ordinal), value in zip(slots, state, strict=True):
            if owner is None:
                _agree(shared.setdefault((None, ordinal), value), value, number)
            elif plan.whole_variables:
                whole[plan.slices[number][owner].variable, ordinal] = value
            else:
                if ordinal not in flat:
                    flat[ordinal] = _flattened(full, ordinal, plan)
                _fill(flat[ordinal], built[owner], value, number)
    for ordinal, vector in flat.items():
        for index, values in enumerate(plan.variables(vector)):
            whole[index, ordinal] = values
    for slot, value in (shared | whole).items():
        full[slot].assign(np.reshape(value, full[slot].shape))


def split_state(
    full_optimizer: Any, plan: SlicePlan, variables: Sequence[VariableSpec]
) -> list[list[NDArray[Any]]]:
    """Runs on the driver. States of all slices from that of the whole optimizer.

    The inverse of `join_states`; also how a fit goes on with another number of
    slices.

    Parameters
    ----------
    full_optimizer : keras.optimizers.Optimizer
        Built on the trainable variables of the model.
    plan : SlicePlan
        What to cut by.
    variables : sequence of VariableSpec
        As given to the slices.

    Returns
    -------
    list of list of ndarray
        What ``SliceOptimizer.load`` takes, one per slice.
    """
    check_plan(plan, variables)
    full = _full_slots(full_optimizer, variables)
    flat: dict[int, NDArray[Any]] = {}
    states: list[list[NDArray[Any]]] = []
    for number in range(plan.count):
        built = blocks(plan, number, variables)
        states.append([])
        if not _has_state(built):
            continue
        for owner, ordinal in _slots(full_optimizer, [block.variable for block in built]):
            if owner is None:
                value = full[None, ordinal].numpy().copy()
            elif plan.whole_variables:
                value = full[plan.slices[number][owner].variable, ordinal].numpy().copy()
            else:
                if ordinal not in flat:
                    flat[ordinal] = _flattened(full, ordinal, plan)
                value = np.concatenate([flat[ordinal][a:b] for a, b in built[owner].pieces])
            states[-1].append(value)
    return states


def owners(optimizer: Any, variables: Sequence[VariableSpec]) -> list[int | None]:
    """Which variable each variable of an optimizer belongs to.

    A copy of the optimizer is built on variables of one element with the same
    paths and ranks. What it creates while it iterates over variable i belongs
    to i, the rest to all.

    Parameters
    ----------
    optimizer : keras.optimizers.Optimizer
        Built or not; it is left as it is.
    variables : sequence of VariableSpec
        What it is, or is to be, built on.

    Returns
    -------
    list of int or None
        In the order of ``optimizer.variables``.

    Raises
    ------
    ConfigurationError
        If something that is no scalar belongs to all variables.
    """
    probe = type(optimizer).from_config(optimizer.get_config())
    found: dict[int, int] = {}
    probe.build(
        _Watched(
            (build_variable(v, np.zeros((1,) * len(v.shape), np.float32)) for v in variables),
            probe,
            found,
        )
    )
    result = [found.get(id(variable)) for variable in probe.variables]
    for variable, owner in zip(probe.variables, result, strict=True):
        if owner is None and len(variable.shape):
            raise ConfigurationError(
                f"{type(optimizer).__name__} creates {variable.name}, which belongs to no single "
                "variable of the model, so its state cannot be cut into slices. Create state in "
                "build() while iterating over the variables given, or train with backend='horovod'."
            )
    return result


class _Watched(list[Any]):
    """Variables that note what an optimizer creates while it iterates over them."""

    def __init__(self, variables: Iterable[Any], optimizer: Any, found: dict[int, int]) -> None:
        super().__init__(variables)
        self._optimizer = optimizer
        self._found = found

    def __iter__(self) -> Iterator[Any]:
        for index, variable in enumerate(super().__iter__()):
            before = len(self._optimizer.variables)
            yield variable
            for created in self._optimizer.variables[before:]:
                self._found.setdefault(id(created), index)


def _slots(optimizer: Any, variables: Sequence[VariableSpec]) -> list[Slot]:
    seen: Counter[int | None] = Counter()
    slots: list[Slot] = []
    for owner in owners(optimizer, variables):
        slots.append((owner, seen[owner]))
        seen[owner] += 1
    return slots


def _full_slots(optimizer: Any, variables: Sequence[VariableSpec]) -> dict[Slot, Any]:
    slots = _slots(optimizer, variables)
    if not optimizer.built or len(optimizer.variables) != len(slots):
        raise ConfigurationError(
            f"The whole optimizer must be built on the {len(variables)} trainable variables of the "
            f"model, with {len(slots)} variables of its own. Got {len(optimizer.variables)}. Call "
            "optimizer.build(model.trainable_variables) first."
        )
    return dict(zip(slots, optimizer.variables, strict=True))


def _has_state(built: Sequence[Block]) -> bool:
    return any(block.variable.trained for block in built)


def _flattened(full: dict[Slot, Any], ordinal: int, plan: SlicePlan) -> NDArray[Any]:
    return np.concatenate(
        [np.asarray(full[index, ordinal]).reshape(-1) for index in range(len(plan.sizes))]
    )


def _fill(vector: NDArray[Any], block: Block, value: NDArray[Any], number: int) -> None:
    if np.size(value) != block.variable.size:
        raise ConfigurationError(
            f"The state of slice {number} has an array of {np.size(value)} elements instead of "
            f"{block.variable.size}: it was cut by another plan."
        )
    values = np.reshape(value, -1)
    offset = 0
    for start, stop in block.pieces:
        vector[start:stop] = values[offset : offset + stop - start]
        offset += stop - start


def _agree(first: NDArray[Any], value: NDArray[Any], number: int) -> None:
    if not np.array_equal(first, value, equal_nan=True):
        raise WorkersDisagreeError(
            f"Slice {number} has {value} where earlier slices have {first} (iteration count or "
            "learning rate): the slices were not updated the same number of times."
        )


def _check_count(plan: SlicePlan, states: Sequence[Any]) -> None:
    if len(states) != plan.count:
        raise ConfigurationError(
            f"There must be one state for each of {plan.count} slices. Got {len(states)}."
        )


def _check_length(number: int, state: Sequence[Any], slots: Sequence[Slot]) -> None:
    if len(state) != len(slots):
        raise ConfigurationError(
            f"The state of slice {number} must have {len(slots)} arrays. Got {len(state)}: it "
            "belongs to another slice or optimizer."
        )
