"""What is to be trained, as frozen and picklable data.

The estimator translates its Params into a `TrainJob` once; nothing below the
estimator reads a Param.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spark_dlobd.job.columns import ColumnSpec
from spark_dlobd.job.network import Network, OutputSpec
from spark_dlobd.job.transformation import Transformation


@dataclass(frozen=True)
class FitConfig:
    """How to train.

    Attributes
    ----------
    world_size : int
        Number of workers.
    batch_size : int
        Rows of one step over all workers (the global batch).
    epochs : int
        Passes over the data.
    seed : int
        Seeds the order of rows, dropout and every other draw.
    shuffle : bool
        Whether the order of rows changes every epoch.
    class_weight : dict of int to float or None
        As ``keras.Model.fit`` takes it.
    callbacks : tuple
        Keras callbacks of the user; each rank gets its own copies.
    verbose : int or str
        0, 1, 2 or ``"auto"``, as the Param of this name.
    keep_optimizer : bool
        Whether the result holds the optimizer's state.
    transformation : Transformation or None
        Changes the batches of training rows.
    """

    world_size: int
    batch_size: int
    epochs: int
    seed: int
    shuffle: bool = True
    class_weight: dict[int, float] | None = None
    callbacks: tuple[Any, ...] = ()
    verbose: int | str = "auto"
    keep_optimizer: bool = False
    transformation: Transformation | None = None


@dataclass(frozen=True)
class TrainJob:
    """Everything a backend needs besides the data.

    Attributes
    ----------
    run_id : str
        Names the fit.
    network : Network
        What to train, with the state its optimizer starts with.
    outputs : tuple of OutputSpec
        What each of the network's outputs means.
    columns : ColumnSpec
        The rows as tensors.
    config : FitConfig
        How to train.
    """

    run_id: str
    network: Network
    outputs: tuple[OutputSpec, ...]
    columns: ColumnSpec
    config: FitConfig


@dataclass(frozen=True)
class TrainResult:
    """What a backend returns.

    Attributes
    ----------
    archive : bytes
        The trained model as a ``.keras`` file.
    history : dict of str to list of float
        Per-epoch metrics averaged over all rows, as Keras's ``History``.
    report : dict
        JSON-able facts: ``seconds`` per phase, ``rows_per_epoch``,
        ``transport``, ``weights_hash`` and what else the backend knows.
    optimizer_state : bytes
        Where `FitConfig.keep_optimizer` asks for it.
    """

    archive: bytes
    history: dict[str, list[float]]
    report: dict[str, Any]
    optimizer_state: bytes = b""
