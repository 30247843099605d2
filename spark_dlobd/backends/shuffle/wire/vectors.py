"""Float32 vectors as the bytes that travel: as they are, or in half the size.

Rounding is to nearest, ties to even, so it has no bias; sums are never taken in
the narrow type. Where that is not enough, `encode_with_feedback` carries what
rounding lost into the next vector (error feedback; Seide et al., "1-Bit
Stochastic Gradient Descent", Interspeech 2014; Karimireddy et al., "Error
Feedback Fixes SignSGD", ICML 2019).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.errors import ConfigurationError, TrainingError

WireType = Literal["fp32", "bf16", "fp16"]

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_CHUNK = 1 << 16


def bytes_per_weight(wire: WireType) -> int:
    """Bytes that one element takes on the wire: 4 for fp32, 2 for bf16 and fp16.

    Raises
    ------
    ConfigurationError
        If `wire` is no wire type.
    """
    if wire not in _BYTES:
        raise ConfigurationError(f"wire must be one of {', '.join(_BYTES)}. Got {wire!r}.")
    return _BYTES[wire]


def encode(array: NDArray[np.float32], wire: WireType) -> memoryview:
    """Runs on each worker. Bytes of a float32 vector, in the byte order of the machine.

    Parameters
    ----------
    array : ndarray of float32, shape (size,)
        Contiguous. NaN stays NaN and infinity stays infinity in every type.
    wire : {"fp32", "bf16", "fp16"}
        For fp32 the result shares the memory of `array`.

    Returns
    -------
    memoryview
        Of bytes, ``size * bytes_per_weight(wire)`` long.

    Raises
    ------
    TrainingError
        If a finite value is too large for fp16 (above 65504): neither cut off nor
        turned into infinity. bf16 has the range of fp32; what is within half a
        step of the largest float32 rounds to infinity, as IEEE 754 has it.

    Examples
    --------
    >>> encode(np.float32([1.0, -2.0]), "bf16").hex()
    '803f00c0'
    """
    bytes_per_weight(wire)
    _check(array)
    if wire == "fp32":
        return array.view(np.uint8).data
    return _rounded(array, wire).view(np.uint8).data


def decode(buffer: Any, wire: WireType) -> NDArray[np.float32]:
    """Runs on each worker. The float32 vector that `encode` made `buffer` of.

    Parameters
    ----------
    buffer : bytes-like
        From `encode`.
    wire : {"fp32", "bf16", "fp16"}
        As given to `encode`. For fp32 the result is a view of `buffer`, read-only
        if that is.

    Raises
    ------
    TrainingError
        If the length of `buffer` is no multiple of an element's.
    """
    width = bytes_per_weight(wire)
    size, rest = divmod(memoryview(buffer).nbytes, width)
    if rest:
        raise TrainingError(
            f"A vector of {wire} has a multiple of {width} bytes. Got {size * width + rest}: it "
            "was cut off, or encoded with another wire type."
        )
    if wire == "fp32":
        return np.frombuffer(buffer, np.float32)
    return np.frombuffer(buffer, _narrow(wire)).astype(np.float32)


def encode_with_feedback(
    array: NDArray[np.float32], residual: NDArray[np.float32] | None, wire: WireType
) -> tuple[memoryview, NDArray[np.float32]]:
    """Runs on each worker. Encode a vector plus what earlier rounding lost.

    Parameters
    ----------
    array : ndarray of float32, shape (size,)
        The new vector.
    residual : ndarray of float32, shape (size,), or None
        From the call before; None at the first. It is left as it is, so that a
        task that runs again gives the same bytes.
    wire : {"fp32", "bf16", "fp16"}
        With fp32 nothing is lost and the new residual is zero.

    Returns
    -------
    encoded : memoryview
        `encode` of ``array + residual``.
    residual : ndarray of float32
        What this rounding lost. Keep it with the sender's state.

    Raises
    ------
    TrainingError
        As `encode`; also if `residual` has another length.
    """
    bytes_per_weight(wire)
    _check(array)
    if residual is not None and residual.shape != array.shape:
        raise TrainingError(
            f"The residual has shape {residual.shape}, the vector {array.shape}: it belongs to "
            "another slice."
        )
    if wire == "fp32":
        whole = array if residual is None else array + residual
        return encode(whole, wire), np.zeros(array.shape, np.float32)
    encoded = np.empty(array.size, _narrow(wire))
    lost = np.empty_like(array)
    for start in range(0, array.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        whole = array[part] if residual is None else array[part] + residual[part]
        encoded[part] = _rounded(whole, wire)
        np.subtract(whole, encoded[part].astype(np.float32), out=lost[part])
    return encoded.view(np.uint8).data, lost


def _narrow(wire: WireType) -> np.dtype[Any]:
    if wire == "fp16":
        return np.dtype(np.float16)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def _rounded(array: NDArray[np.float32], wire: WireType) -> NDArray[Any]:
    try:
        with np.errstate(over="raise" if wire == "fp16" else "ignore", invalid="ignore"):
            return array.astype(_narrow(wire))
    except FloatingPointError as error:
        largest = np.abs(array[np.isfinite(array)]).max()
        raise TrainingError(
            f"A value of {largest:g} does not fit into fp16, whose largest is 65504. Send bf16 or "
            "fp32 instead, or clip gradients."
        ) from error


def _check(array: NDArray[np.float32]) -> None:
    if array.dtype != np.float32 or array.ndim != 1 or not array.flags.c_contiguous:
        raise TrainingError(
            f"Vectors must be contiguous float32 of one dimension. Got {array.dtype} of shape "
            f"{array.shape}."
        )
