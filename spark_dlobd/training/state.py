"""The state of a model that gradients do not carry: statistics and seeds."""

from __future__ import annotations

import hashlib
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
    """Replace each rank's moving statistics by their mean over ranks."""
    for variable in statistics(model):
        variable.assign(group.sum(np.asarray(variable)) / group.size)


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
