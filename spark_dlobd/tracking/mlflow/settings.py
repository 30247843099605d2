"""What is to be recorded in MLflow, where, and how long it may take. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spark_dlobd.errors import ConfigurationError
from spark_dlobd.tracking.delivery import Limits


@dataclass(frozen=True)
class MlflowSettings:
    """The arguments of `MlflowTracker`, checked.

    Attributes
    ----------
    tracking_uri, experiment, run_name : str or None
        None is MLflow's current server, its current experiment, and a name made of the fit.
    log_model : bool
        Whether to log the trained model.
    model_name : str
        Name of the logged model.
    timeout_s : float
        Limit of one request.
    limits : Limits
        How long a fit may wait.
    fallback_dir : str or Path or None
        Where undelivered records are kept; None is the working directory.

    Raises
    ------
    ConfigurationError
        A limit is not positive.
    """

    tracking_uri: str | None = None
    experiment: str | None = None
    run_name: str | None = None
    log_model: bool = True
    model_name: str = "model"
    timeout_s: float = 5.0
    limits: Limits = field(default_factory=Limits)
    fallback_dir: str | Path | None = None

    def __post_init__(self) -> None:
        """Check the limits."""
        limits = {
            "timeout_s": self.timeout_s,
            "close_timeout_s": self.limits.close_timeout_s,
            "upload_timeout_s": self.limits.upload_timeout_s,
        }
        for name, value in limits.items():
            if not value > 0:
                raise ConfigurationError(
                    f"{name} must be a number of seconds above 0. Got {value!r}."
                )
