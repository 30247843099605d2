"""The state of a Keras optimizer as bytes: momenta, counts and the learning rate.

Imported without Keras; the format is npz, without pickle.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.errors import ConfigurationError, PersistenceError

_KIND = "kind"
_RATE = "learning_rate"


def optimizer_state(optimizer: Any) -> bytes:
    """Variables of a built optimizer.

    Parameters
    ----------
    optimizer : keras.optimizers.Optimizer
        Built on the trainable variables of a model.

    Returns
    -------
    bytes
        What `load_optimizer_state` takes.
    """
    arrays = {
        f"{index}/{variable.name}": _as_numpy(variable)
        for index, variable in enumerate(optimizer.variables)
    }
    return _packed({_KIND: np.array(_kind(optimizer)), **arrays})


def load_optimizer_state(model: Any, content: bytes) -> None:
    """Build the optimizer of a compiled model and give it a state.

    A learning rate that the state has is assigned too, unless the optimizer has a
    schedule.

    Parameters
    ----------
    model : keras.Model
        Compiled.
    content : bytes
        From `optimizer_state`.

    Raises
    ------
    ConfigurationError
        If it is the state of another optimizer or of another network.
    """
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    arrays = _unpacked(content)
    kind = str(arrays.pop(_KIND))
    if kind != _kind(optimizer):
        raise ConfigurationError(
            f"optimizerState='resume' needs the optimizer whose state the model holds: {kind}. Got "
            f"{_kind(optimizer)}: leave the Param optimizer out, or use optimizerState='keep'."
        )
    state = [(name.partition("/")[2], value) for name, value in arrays.items()]
    rates = [value for name, value in state if name == _RATE]
    others = [value for name, value in state if name != _RATE]
    variables = [variable for variable in optimizer.variables if variable.name != _RATE]
    if [value.shape for value in others] != [tuple(v.shape) for v in variables]:
        raise ConfigurationError(
            f"optimizerState='resume' needs a state of {len(variables)} variables of {kind} for "
            f"this network. Got one of {len(others)}, or of other shapes: it belongs to a network "
            "or an optimizer with other settings. Use optimizerState='keep'."
        )
    for variable, value in zip(variables, others, strict=True):
        variable.assign(value)
    # a LossScaleOptimizer has one of its own beside that of the optimizer inside
    own = [variable for variable in optimizer.variables if variable.name == _RATE]
    for variable, rate in zip(own, rates, strict=False):
        variable.assign(rate)


def without_learning_rate(content: bytes) -> bytes:
    """Return the state but for its learning rate: the optimizer keeps its own."""
    arrays = _unpacked(content)
    return _packed({k: v for k, v in arrays.items() if k.partition("/")[2] != _RATE})


def _kind(optimizer: Any) -> str:
    inner = getattr(optimizer, "inner_optimizer", None)
    name = type(optimizer).__name__
    return name if inner is None else f"{name}({_kind(inner)})"


def _as_numpy(variable: Any) -> NDArray[Any]:
    value = np.asarray(variable)
    # numpy's files do not know bfloat16
    return value.astype(np.float32) if value.dtype.name == "bfloat16" else value


def _packed(arrays: dict[str, NDArray[Any]]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def check_optimizer_state(content: bytes, where: str = "The optimizer's state") -> None:
    """Raise `PersistenceError` unless `content` can be read.

    Nothing in it is compressed, so that it takes no more memory than its own length.
    """
    _unpacked(content, where)


def _unpacked(content: bytes, where: str = "The optimizer's state") -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            stored = all(info.compress_type == zipfile.ZIP_STORED for info in file.infolist())
            if not stored or file.testzip() is not None:
                raise ValueError("a member is damaged or compressed")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        found[_KIND]
    except Exception as error:
        raise PersistenceError(
            f"{where} is damaged: {type(error).__name__}: {error}. Train with "
            "optimizerState='keep' and save again."
        ) from error
    return found
