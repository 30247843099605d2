"""What cannot be trained through parameter servers, found on the driver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from spark_dlobd.errors import ConfigurationError

if TYPE_CHECKING:
    from spark_dlobd.training.job import TrainJob


def check_job(job: TrainJob) -> None:
    """Raise `ConfigurationError` for what the backend does not do.

    Runs on the driver.
    """
    for problem in problems(job.model.compile_config):
        raise ConfigurationError(f"backend='parameter_server' {problem}")


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
