"""A Keras network as frozen and picklable data, and what its output means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ProblemType = Literal["multiclass", "binary", "multilabel", "regression"]


@dataclass(frozen=True)
class OutputSpec:
    """What the model's output means.

    Attributes
    ----------
    problem : {"multiclass", "binary", "multilabel", "regression"}
        ``"binary"`` is one sigmoid or logit unit; two units are ``"multiclass"``, where one
        class is true, or ``"multilabel"``, where each is true or not by itself.
    units : int
        Elements of the model's output for one row.
    from_logits : bool
        Whether the output still needs softmax or sigmoid to become a probability.
    name : str
        Of the network's output; empty where there is one.
    shape : tuple of int
        Of the model's output for one row, where it has more than one axis.
    """

    problem: ProblemType
    units: int
    from_logits: bool = False
    name: str = ""
    shape: tuple[int, ...] = ()

    @property
    def positions(self) -> tuple[int, ...]:
        """Axes of the classes of one row, where a classifier gives one for each position.

        Examples
        --------
        >>> OutputSpec("multiclass", 4 * 4 * 3, shape=(4, 4, 3)).positions
        (4, 4)
        """
        return self.shape[:-1] if self.problem == "multiclass" else ()

    def column(self, field: str) -> str:
        """Name of the column for a field of this output, where there are several.

        Examples
        --------
        >>> OutputSpec("binary", 1, name="clicked").column("probability")
        'clicked_probability'
        """
        return f"{self.name}_{field}" if self.name else field


@dataclass(frozen=True)
class Network:
    """What is trained, sent to workers, scored with and saved.

    Attributes
    ----------
    archive : bytes
        The ``.keras`` file: architecture and weights.
    compile_config : mapping
        JSON-able arguments of ``compile`` as ``keras.saving`` serializes them; empty for a
        network that is not compiled.
    custom_objects : mapping of str to object
        Registered name -> class or function that the archive refers to.
    optimizer_state : bytes
        What the optimizer ended with, from `training.optimizer_state`; empty where nobody
        keeps it.
    """

    archive: bytes
    compile_config: Mapping[str, Any] = field(default_factory=dict)
    custom_objects: Mapping[str, Any] = field(default_factory=dict)
    optimizer_state: bytes = b""
