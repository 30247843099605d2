"""What a fitted stage holds: a network, the rows it takes and what it says of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spark_dlobd.job.columns import TensorColumn
from spark_dlobd.job.network import Network, OutputSpec
from spark_dlobd.training.signature import Tensor


@dataclass(frozen=True)
class FittedOutput:
    """One output of a network.

    Attributes
    ----------
    spec : OutputSpec
        What it means.
    label_metadata : dict
        Metadata of the column it learned; its prediction column carries it.
    """

    spec: OutputSpec
    label_metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FittedNetwork:
    """A network that scores the rows of a DataFrame.

    Attributes
    ----------
    network : Network
        Weights and how they are compiled.
    inputs : tuple of TensorColumn
        Each input as the network takes it, and the column it was trained on.
    outputs : tuple of FittedOutput
        In the network's order.
    """

    network: Network
    inputs: tuple[TensorColumn, ...]
    outputs: tuple[FittedOutput, ...]

    @property
    def specs(self) -> tuple[OutputSpec, ...]:
        """What each output means."""
        return tuple(output.spec for output in self.outputs)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the network takes."""
        return tuple(Tensor(one.part, one.shape, one.network_dtype) for one in self.inputs)
