"""The description of a sweep, from YAML or the command line, and the cases it means."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spark_dlobd.characterize.subjects.datasets import check_path, get_dataset
from spark_dlobd.characterize.subjects.models import get_model
from spark_dlobd.characterize.sweep import transports
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.characterize.sweep.checks import (
    by,
    check_names,
    check_numbers,
    impossible,
    no_backend_of,
)
from spark_dlobd.characterize.sweep.settings import as_tuple, parse_settings
from spark_dlobd.errors import ConfigurationError

__all__ = ["Sweep", "SweepSpec"]

WORKERS_X_BATCH = 128
"""Rows of one step over all workers, by the literature's rule."""


@dataclass(frozen=True)
class Sweep:
    """What will run.

    Attributes
    ----------
    name : str
        Title of the results.
    cases : tuple of Case
        In the order in which they run.
    left_out : tuple of str
        Combinations of the description that do not exist, each with the reason.
    paths : mapping of str to str
        Data set to the folder of its files.
    """

    name: str
    cases: tuple[Case, ...]
    left_out: tuple[str, ...] = ()
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepSpec:
    """Description of a sweep: each list is a dimension, and all combinations run.

    A combination that cannot exist, such as a compression of parameter servers, is left
    out, and so are transports of other backends and data of other models. Any other value
    that no combination could use is refused. `local` is one process whatever `workers`
    says: the others are measured by it.

    Attributes
    ----------
    models : tuple of str
        Models to train.
    backends : tuple of str
        What synchronizes the workers.
    name : str
        Title of the results.
    data : tuple of str
        Data sets; by default the one that the literature uses with each model.
    paths : mapping of str to str
        Data set to the folder of its files.
    transports : tuple of str
        How gradients travel; a backend that has none of them takes its default.
    workers : tuple of int
        Numbers of workers.
    batch : tuple of int
        Rows of a step over all workers.
    batch_per_worker : tuple of int
        Instead of `batch`: rows of a step of each worker.
    compression : tuple of str
        ``none``, ``fp16``, ``bf16``.
    link_mbit : tuple of int or None
        Rates of emulated links; None is the machine's own network.
    repeats : int
        Runs of each combination.
    epochs : int
        Passes over the training rows.
    rows, test_rows : int or None
        The first so many rows only.
    time_limit_s : float
        When a case that has not ended is stopped.

    Examples
    --------
    >>> spec = SweepSpec(("softmax",), ("horovod",), workers=(1, 2))
    >>> [case.workers for case in spec.expand().cases]
    [1, 2]
    """

    models: tuple[str, ...]
    backends: tuple[str, ...]
    name: str = "DLoBD characterization"
    data: tuple[str, ...] = ()
    paths: Mapping[str, str] = field(default_factory=dict)
    transports: tuple[str, ...] = ()
    workers: tuple[int, ...] = (1, 2)
    batch: tuple[int, ...] = ()
    batch_per_worker: tuple[int, ...] = ()
    compression: tuple[str, ...] = ("none",)
    link_mbit: tuple[int | None, ...] = (None,)
    repeats: int = 1
    epochs: int = 1
    rows: int | None = None
    test_rows: int | None = None
    time_limit_s: float = 600.0

    def __post_init__(self) -> None:
        """Check names, types and ranges; combinations are checked by `expand`."""
        for name in _LISTS:
            object.__setattr__(self, name, as_tuple(name, getattr(self, name)))
        check_names(vars(self))
        check_numbers(vars(self))
        for name, path in self.paths.items():
            check_path(get_dataset(name), path)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], settings: Iterable[str] = ()) -> SweepSpec:
        """Read a YAML file, each key an attribute of this class.

        Parameters
        ----------
        path : path-like
            The file.
        settings : iterable of str, optional
            ``key=value,value`` that replace what the file says, as in `from_settings`.

        Raises
        ------
        ConfigurationError
            If the file cannot be read or its content is wrong.
        """
        import yaml

        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigurationError(f"The sweep {path} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise ConfigurationError(
                f"The sweep {path} must hold keys such as 'models' and 'backends'. "
                f"Got {type(content).__name__}."
            )
        return cls.from_mapping({**content, **parse_settings(settings)})

    @classmethod
    def from_settings(cls, settings: Iterable[str]) -> SweepSpec:
        """Read ``key=value,value`` texts, as a command line has them.

        Examples
        --------
        >>> spec = SweepSpec.from_settings(["models=lenet", "backends=horovod,shuffle"])
        >>> spec.backends
        ('horovod', 'shuffle')
        """
        return cls.from_mapping(parse_settings(settings))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SweepSpec:
        """Make a description of the values of its attributes; lists may be single values."""
        known = [item.name for item in dataclasses.fields(cls)]
        if unknown := sorted(str(key) for key in values if key not in known):
            raise ConfigurationError(
                f"A sweep has no {', '.join(unknown)}. Its keys are {', '.join(known)}."
            )
        if missing := [key for key in ("models", "backends") if not values.get(key)]:
            raise ConfigurationError(
                f"A sweep needs {' and '.join(missing)}, for example models=lenet "
                "backends=horovod,shuffle; on the command line --quick brings both."
            )
        return cls(**dict(values))

    def expand(self) -> Sweep:
        """Return the cases, refusing what cannot run.

        Repetitions are the outermost loop, so that a sweep that is stopped early has
        each combination at least once.

        Raises
        ------
        ConfigurationError
            If a value fits into no combination, or data lack their path.
        """
        left_out: dict[str, None] = {}
        cases = list(dict.fromkeys(self._combinations(left_out)))
        self._check_all_used(cases, left_out)
        for name in dict.fromkeys(case.data for case in cases):
            check_path(get_dataset(name), self.paths.get(name))
        repeated = [
            replace(case, repeat=repeat) for repeat in range(1, self.repeats + 1) for case in cases
        ]
        return Sweep(self.name, tuple(repeated), tuple(left_out), dict(self.paths))

    def _combinations(self, left_out: dict[str, None]) -> Iterator[Case]:
        pairs = list(self._models_and_data(left_out))
        carriers = list(self._carriers(left_out))
        dimensions = (pairs, carriers, self.link_mbit, self.workers, self._batches())
        for (model, data), carrier, link, workers, batch in itertools.product(*dimensions):
            transport, compression = carrier
            backend = transports.get_transport(transport).backend
            if backend == "local" and workers > 1:
                left_out[f"{workers} workers of local: they would take turns in one process"] = None
                workers = 1
            case = Case(
                model=model,
                data=data,
                backend=backend,
                transport=transport,
                workers=workers,
                batch_size=batch[0] or batch[1] * workers,
                compression=compression,
                epochs=self.epochs,
                rows=self.rows,
                test_rows=self.test_rows,
                link_mbit=link,
                time_limit_s=self.time_limit_s,
            )
            reason = impossible(case)
            if reason is None:
                yield case
            else:
                left_out[reason] = None

    def _models_and_data(self, left_out: dict[str, None]) -> Iterator[tuple[str, str]]:
        for model in self.models:
            entry = get_model(model)
            for data in self.data or (entry.data,):
                found = get_dataset(data)
                if (found.shape, found.classes) == (entry.input_shape, entry.classes):
                    yield model, data
                else:
                    left_out[
                        f"{model} on {data}: it reads {by(entry.input_shape)}, the images are "
                        f"{by(found.shape)}"
                    ] = None

    def _carriers(self, left_out: dict[str, None]) -> Iterator[tuple[str, str]]:
        """Transport and compression of every backend."""
        for name in self.transports:
            if reason := no_backend_of(name, self.backends):
                left_out[reason] = None
        for backend in self.backends:
            has = transports.transports_of(backend)
            chosen = [name for name in self.transports if name in has] or [has[0]]
            for transport, compression in itertools.product(chosen, self.compression):
                if compression in transports.compressions_of(backend):
                    yield transport, compression
                else:
                    left_out[f"{compression} on {backend}: it sends gradients as they are"] = None

    def _batches(self) -> list[tuple[int, int]]:
        """Global batch or, where that is 0, batch of a worker."""
        if self.batch_per_worker:
            return [(0, size) for size in self.batch_per_worker]
        return [(size, 0) for size in self.batch or (WORKERS_X_BATCH,)]

    def _check_all_used(self, cases: Sequence[Case], left_out: Iterable[str]) -> None:
        used: dict[str, set[Any]] = {
            "models": {case.model for case in cases},
            "data": {case.data for case in cases},
            "backends": {case.backend for case in cases},
            "transports": {case.transport for case in cases},
            "compression": {case.compression for case in cases},
            "workers": {case.workers for case in cases},
            "link_mbit": {case.link_mbit for case in cases},
        }
        for key, values in used.items():
            for value in getattr(self, key):
                if value not in values and not self._may_be_unused(key, value):
                    # where nothing is left, every reason counts
                    reasons = [why for why in left_out if str(value) in why or not cases]
                    why = "; ".join(reasons) or "all of its combinations are impossible"
                    raise ConfigurationError(
                        f"{key}: {value!r} fits no combination of this sweep: {why}. "
                        "Remove it or add what it needs."
                    )

    def _may_be_unused(self, key: str, value: Any) -> bool:
        """Whether a value is for other backends or models than this sweep's; it is noted."""
        if key == "workers":  # 1 and 2 are the default, and local has the first alone
            return set(self.backends) == {"local"} and 1 in self.workers
        if key == "transports":
            return no_backend_of(value, self.backends) is not None
        return key == "data"  # each model has its data, or the model would be refused


_LISTS = (
    "models", "backends", "data", "transports", "workers", "batch", "batch_per_worker",
    "compression", "link_mbit",
)  # fmt: skip
