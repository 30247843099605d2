"""What the owner of a slice must know of the model's variables, and what it builds of them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from spark_dlobd.backends.shuffle.slices.plan import Segment, SlicePlan
from spark_dlobd.errors import ConfigurationError, ModelError


@dataclass(frozen=True)
class VariableSpec:
    """One trainable variable of the model, without its value.

    Parameters
    ----------
    path : str
        As ``keras.Variable.path``, e.g. ``"sequential/dense/kernel"``; the last
        part is the name.
    shape : tuple of int
        Its shape.
    decay : bool, default True
        False if it is excluded from weight decay.
    trained : bool, default True
        False if the loss does not depend on it, so that it never gets a gradient.
    constraint : mapping or None
        Serialized Keras constraint.
    """

    path: str
    shape: tuple[int, ...]
    decay: bool = True
    trained: bool = True
    constraint: Mapping[str, Any] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Block:
    """What one variable of a slice's optimizer holds.

    Parameters
    ----------
    pieces : tuple of (start, stop)
        Ranges of the flat vector of all slices, in order.
    variable : VariableSpec
        The variable to build; its size is that of the pieces together.
    """

    pieces: tuple[tuple[int, int], ...]
    variable: VariableSpec


def variable_specs(
    variables: Sequence[Any], optimizer: Any = None, untrained: Collection[str] = ()
) -> tuple[VariableSpec, ...]:
    """Runs on the driver. Describe the trainable variables of a model.

    Parameters
    ----------
    variables : sequence of keras.Variable
        ``model.trainable_variables``.
    optimizer : keras.optimizers.Optimizer, optional
        Whose ``exclude_from_weight_decay`` counts. Keras does not write the
        exclusions into an optimizer's config.
    untrained : collection of str
        Paths of variables that never get a gradient.

    Raises
    ------
    ModelError
        If a variable is not float32, or is overwritten by its gradient (float8).
    """
    import keras

    specs = []
    for variable in variables:
        if str(variable.dtype) != "float32" or getattr(variable, "overwrite_with_gradient", False):
            raise ModelError(
                f"Only float32 variables that are updated by an optimizer can be cut into slices. "
                f"{variable.path} is {variable.dtype}. Use the dtype policy float32 or "
                "mixed_bfloat16, or train with backend='horovod'."
            )
        constraint = getattr(variable, "constraint", None)
        specs.append(
            VariableSpec(
                path=variable.path,
                shape=tuple(int(extent) for extent in variable.shape),
                decay=optimizer is None or _decays(optimizer, variable),
                trained=variable.path not in untrained,
                constraint=constraint and keras.saving.serialize_keras_object(constraint),
            )
        )
    return tuple(specs)


def blocks(plan: SlicePlan, number: int, variables: Sequence[VariableSpec]) -> tuple[Block, ...]:
    """Say what the optimizer of slice `number` is built on.

    Whole variables keep path, shape and constraint. Where any element may be cut
    off, elements are alike and make one flat block, or a few where some are
    excluded from weight decay or get no gradient: the cost of an update is that of
    its elements then, not of the number of variables.

    Raises
    ------
    ConfigurationError
        If `variables` are not those of the plan.
    """
    check_plan(plan, variables)
    segments = plan.slices[number]
    if plan.whole_variables:
        return tuple(Block((_range(plan, s),), variables[s.variable]) for s in segments)
    alike: dict[tuple[bool, bool], list[tuple[int, int]]] = {}
    for segment in segments:
        variable = variables[segment.variable]
        start, stop = _range(plan, segment)
        pieces = alike.setdefault((variable.decay, variable.trained), [])
        if pieces and pieces[-1][1] == start:
            start = pieces.pop()[0]
        pieces.append((start, stop))
    return tuple(
        Block(tuple(pieces), VariableSpec(f"block_{index}", (_size(pieces),), *key))
        for index, (key, pieces) in enumerate(alike.items())
    )


def check_plan(plan: SlicePlan, variables: Sequence[VariableSpec]) -> None:
    """Raise `ConfigurationError` unless `variables` are those that `plan` cuts."""
    if tuple(variable.size for variable in variables) != plan.sizes:
        raise ConfigurationError(
            f"The plan cuts {len(plan.sizes)} variables of {plan.total} elements; the "
            f"{len(variables)} variables given have {sum(v.size for v in variables)}, or another "
            "order."
        )


def build_variable(spec: VariableSpec, value: NDArray[Any]) -> Any:
    """Keras variable of the path and the constraint of `spec`; for a whole one, of its shape."""
    import keras

    *scopes, name = spec.path.split("/")
    with contextlib.ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(keras.name_scope(scope))
        shape = spec.shape if value.size == spec.size else value.shape
        variable = keras.Variable(value.reshape(shape), dtype="float32", name=name)
    if spec.constraint is not None:
        variable.constraint = keras.constraints.get(dict(spec.constraint))
    return variable


def _range(plan: SlicePlan, segment: Segment) -> tuple[int, int]:
    offset = plan.offsets[segment.variable]
    return offset + segment.start, offset + segment.stop


def _size(pieces: Sequence[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in pieces)


def _decays(optimizer: Any, variable: Any) -> bool:
    """Ask the optimizer as its own update does: most hand it the variable's native value."""
    import keras

    own = type(optimizer)._apply_weight_decay is not keras.optimizers.Optimizer._apply_weight_decay
    return bool(optimizer._use_weight_decay(variable if own else variable.value))
