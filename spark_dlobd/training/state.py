"""The state of a model that gradients do not carry: statistics and seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.errors import WorkersDisagreeError
from spark_dlobd.training.collective import Collective


def seed_states(model: Any) -> list[Any]:
    """Counters of dropout and other random layers."""
    return [v for v in model.non_trainable_variables if v.path.endswith("seed_generator_state")]


def statistics(model: Any) -> list[Any]:
    """Floating non-trainable weights, e.g. BatchNormalization's moving averages."""
    return [v for v in model.non_trainable_weights if "float" in str(v.dtype)]


def rank_seeds(model: Any, seed: int, rank: int) -> list[NDArray[Any]]:
    """Draw the initial random state of one rank, a function of `seed` and `rank` alone."""
    return [
        np.random.default_rng([seed, rank, index]).integers(0, 2**31, size=tuple(v.shape))
        for index, v in enumerate(seed_states(model))
    ]


def average_statistics(model: Any, group: Collective) -> None:
    """Replace each rank's moving statistics by their mean over ranks.

    What all ranks have alike, such as the weights of frozen layers, stays what it is to the
    last bit and does not travel.
    """
    variables = statistics(model)
    if not variables:
        return
    own = np.array([_digest(variable) for variable in variables], np.int64)
    everyone = group.gather(own)
    for variable, differs in zip(variables, (everyone != everyone[0]).any(axis=0), strict=True):
        if differs:
            variable.assign(group.sum(np.asarray(variable)) / group.size)


def mean_of(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Mean over workers; the value itself, to the last bit, where all have it alike.

    Examples
    --------
    >>> bool(mean_of([np.float32(0.1)] * 7) == np.float32(0.1))
    True
    """
    first = values[0]
    if all(np.array_equal(first, value) for value in values[1:]):
        return first
    mean: NDArray[Any] = np.mean(values, axis=0)
    return mean


def _digest(variable: Any) -> int:
    """Number that tells values apart, to the last bit."""
    found = hashlib.sha256(np.ascontiguousarray(variable).tobytes()).digest()
    return int.from_bytes(found[:8], "little", signed=True)


def check_same_weights(model: Any, group: Collective, when: str) -> str:
    """Compare the weights of all ranks and return their hash.

    Raises
    ------
    WorkersDisagreeError
        Naming the ranks that differ from rank 0.
    """
    digest = hashlib.sha256()
    for variable in model.weights:
        digest.update(np.ascontiguousarray(variable).tobytes())
    own = np.frombuffer(digest.digest()[:8], dtype=np.int64)
    everyone = group.gather(own)[:, 0]
    different = [rank for rank, value in enumerate(everyone) if value != everyone[0]]
    if different:
        raise WorkersDisagreeError(
            f"The weights of ranks {different} differ from those of rank 0 {when}: gradients were "
            "not averaged alike. A custom train_step must update weights only through "
            "self.optimizer, and callbacks must not change weights on single ranks."
        )
    return digest.hexdigest()
