"""One run of a sweep: everything that decides what it measures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from spark_dlobd.characterize.sweep.transports import backend_options
from spark_dlobd.errors import ConfigurationError

_NOT_MEASURED = ("time_limit_s",)


@dataclass(frozen=True)
class Case:
    """One training, and the test of what came out of it.

    Attributes
    ----------
    model, data : str
        Names of `models.model_names` and `datasets.dataset_names`.
    backend, transport : str
        What synchronizes the workers, and how gradients travel.
    workers : int
        Workers that train together.
    batch_size : int
        Rows of a step over all workers; the literature's rule is 128.
    compression : {"none", "fp16", "bf16"}
        Type of gradients on the wire.
    epochs : int
        Passes over the training rows.
    rows, test_rows : int or None
        The first so many rows only.
    link_mbit : int or None
        Rate of the emulated links between hosts; None is the machine's own network.
    repeat : int
        Number of the repetition, from 1; the seed of its data order and weights too.
    time_limit_s : float
        When a run that has not ended is stopped. Not part of the id.
    """

    model: str
    data: str
    backend: str
    transport: str
    workers: int
    batch_size: int = 128
    compression: str = "none"
    epochs: int = 1
    rows: int | None = None
    test_rows: int | None = None
    link_mbit: int | None = None
    repeat: int = 1
    time_limit_s: float = 600.0

    @property
    def id(self) -> str:
        """Name that the same case has in every sweep; fit for a file name.

        Examples
        --------
        >>> Case("lenet", "mnist", "horovod", "gloo", 2).id
        'lenet-mnist-horovod-gloo-w2-b128-r1-9473e015'
        """
        # Without defaults, so that a new field leaves the ids of old cases as they are.
        measured = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.name not in _NOT_MEASURED and getattr(self, item.name) != item.default
        }
        digest = hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()[:8]
        parts = [self.model, self.data, self.backend, self.transport, f"w{self.workers}"]
        parts.append(f"b{self.batch_size}")
        parts += [self.compression] if self.compression != "none" else []
        parts += [f"{self.link_mbit}mbit"] if self.link_mbit else []
        return "-".join([*parts, f"r{self.repeat}", digest])

    @property
    def backend_param(self) -> dict[str, Any]:
        """The estimator's ``backend``."""
        return backend_options(self.transport, self.compression)

    @property
    def setting(self) -> tuple[Any, ...]:
        """What repetitions of this case have in common."""
        skipped = ("repeat", *_NOT_MEASURED)
        return tuple(v for k, v in asdict(self).items() if k not in skipped)

    def to_json(self) -> dict[str, Any]:
        """Return a dict that `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Case:
        """Read what `to_json` gave.

        Raises
        ------
        ConfigurationError
            If fields are missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigurationError(
                f"A case has no {', '.join(unknown)}. Its fields are {', '.join(sorted(known))}."
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigurationError(f"A case cannot be read: {error}. Got {values!r}.") from error
