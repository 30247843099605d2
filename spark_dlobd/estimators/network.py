"""What a fitted stage holds: a network, the rows it takes and what it says of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spark_dlobd.job.columns import TensorColumn
from spark_dlobd.job.network import Network, OutputSpec


@dataclass(frozen=True)
class FittedNetwork:
    """A network that scores the rows of a DataFrame.

    Attributes
    ----------
    network : Network
        Weights and how they are compiled.
    features : TensorColumn
        One row as the network takes it, and the column it was trained on.
    output : OutputSpec
        What the network's output means.
    label_metadata : dict
        Metadata of the label column; the prediction column carries it.
    """

    network: Network
    features: TensorColumn
    output: OutputSpec
    label_metadata: dict[str, Any] = field(default_factory=dict)
