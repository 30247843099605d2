"""What cannot be trained through parameter servers, found on the driver."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from spark_dlobd.errors import ConfigurationError

if TYPE_CHECKING:
    from spark_dlobd.job.train_job import TrainJob

# Optimizers that update every element from its own gradient and state alone.
ELEMENTWISE = frozenset({"Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lion", "RMSprop", "SGD"})


def check_job(job: TrainJob) -> None:
    """Raise `ConfigurationError` for what the backend does not do.

    Runs on the driver.
    """
    config = job.network.compile_config
    found = [*problems(config)]
    if "Embedding" in class_names(job.network.archive):
        optimizer = config.get("optimizer") or {}
        if isinstance(optimizer, Mapping):
            name, options = optimizer.get("class_name"), optimizer.get("config", {})
            found += row_problems(str(name), options)
    if found:
        raise ConfigurationError(f"backend='parameter_server' {found[0]}")


def check_row_updates(optimizer: Any, has_tables: bool) -> None:
    """Check an optimizer that shall update rows of tables. Runs on each worker.

    The driver has checked what the model's config shows; a subclassed model may
    make embedding layers that it does not show.
    """
    if has_tables:
        for problem in row_problems(type(optimizer).__name__, optimizer.get_config()):
            raise ConfigurationError(f"backend='parameter_server' {problem}")


def class_names(archive: bytes) -> set[str]:
    """Names of all classes in the config of a ``.keras`` file."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        found: set[str] = set()

        def note(item: dict[str, Any]) -> dict[str, Any]:
            if isinstance(item.get("class_name"), str):
                found.add(item["class_name"])
            return item

        json.loads(file.read("config.json"), object_hook=note)
    return found


def row_problems(name: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Say why an optimizer cannot update single rows of an embedding table. Pure."""
    if name not in ELEMENTWISE:
        yield (
            f"updates only the rows of a batch in an Embedding layer, which the optimizer {name} "
            f"cannot do. Use one of {', '.join(sorted(ELEMENTWISE))}, or backend='horovod'."
        )
    for option in ("weight_decay", "clipnorm", "global_clipnorm", "clipvalue"):
        if options.get(option):
            yield (
                f"updates only the rows of a batch in an Embedding layer, so {option} of the "
                f"optimizer would mean something else. Got {option}={options[option]!r}: leave "
                "it out, or use backend='horovod'."
            )


def problems(compile_config: Mapping[str, Any]) -> Iterator[str]:
    """Say what of a compile config is not supported and what to do. Pure."""
    if compile_config.get("jit_compile") is True:
        yield (
            "cannot compile a step with XLA, because the step reads and updates weights on other "
            "machines. Got jit_compile=True: compile the model with jit_compile=False."
        )
    if compile_config.get("run_eagerly"):
        yield (
            "runs steps as graphs on other machines. Got run_eagerly=True: use backend='local' "
            "to debug."
        )
    optimizer = compile_config.get("optimizer") or {}
    options = optimizer.get("config", {}) if isinstance(optimizer, Mapping) else {}
    name = optimizer.get("class_name") if isinstance(optimizer, Mapping) else None
    if name == "LossScaleOptimizer":
        yield (
            "has no loss scaling, which needs all workers to decide together. Use the dtype "
            "policy 'mixed_bfloat16' or backend='horovod'."
        )
    for option in ("gradient_accumulation_steps", "use_ema"):
        if options.get(option):
            yield (
                f"does not support {option} of the optimizer: its state would be that of "
                f"several workers at once. Got {option}={options[option]!r}; leave it out or use "
                "backend='horovod'."
            )
