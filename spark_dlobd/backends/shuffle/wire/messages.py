"""What travels through the shuffle: a JSON header and raw arrays in one buffer. Pure.

Layout: length of the header (8 bytes, little-endian), header, padding, then each array
padded to 16 bytes, so that views of a received message are aligned.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spark_dlobd.errors import TrainingError

_ALIGNMENT = 16
_LENGTH = struct.Struct("<Q")

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Message:
    """A record of the shuffle.

    Attributes
    ----------
    header : dict
        JSON-able facts; ``kind`` and ``source`` are always there.
    arrays : mapping of str to numpy.ndarray
        Named arrays; read-only views of the buffer in a received message.
    """

    header: dict[str, Any]
    arrays: Arrays = field(default_factory=dict)

    @property
    def source(self) -> int:
        """Partition that sent it."""
        return int(self.header["source"])

    def group(self, prefix: str) -> list[NDArray[Any]]:
        """Arrays named ``prefix/0``, ``prefix/1`` and so on, in that order."""
        found: list[NDArray[Any]] = []
        while (name := f"{prefix}/{len(found)}") in self.arrays:
            found.append(self.arrays[name])
        return found


def numbered(prefix: str, arrays: list[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Name arrays ``prefix/0``, ``prefix/1`` and so on."""
    return {f"{prefix}/{index}": array for index, array in enumerate(arrays)}


def pack(message: Message) -> bytes:
    """Write a message in one copy.

    Examples
    --------
    >>> packed = pack(Message({"kind": "weights", "source": 1}, {"values": np.arange(3.0)}))
    >>> unpack(packed).arrays["values"]
    array([0., 1., 2.])
    """
    described = [
        [name, _type_name(array.dtype), list(array.shape)] for name, array in message.arrays.items()
    ]
    header = json.dumps({**message.header, "arrays": described}).encode()
    parts: list[Any] = [_LENGTH.pack(len(header)), header]
    parts.append(bytes(-(len(header) + _LENGTH.size) % _ALIGNMENT))
    for array in message.arrays.values():
        flat = np.ascontiguousarray(array).reshape(-1)
        if flat.size:
            parts += [flat.view(np.uint8).data, bytes(-flat.nbytes % _ALIGNMENT)]
    return b"".join(parts)


def unpack(buffer: bytes) -> Message:
    """Read a message without a copy of its arrays.

    Raises
    ------
    TrainingError
        If the buffer is shorter than its header says.
    """
    (length,) = _LENGTH.unpack_from(buffer)
    header = json.loads(buffer[_LENGTH.size : _LENGTH.size + length])
    position = _LENGTH.size + length
    position += -position % _ALIGNMENT
    arrays = {}
    for name, type_name, shape in header.pop("arrays"):
        dtype = _type_named(type_name)
        count = int(np.prod(shape, dtype=np.int64))
        size = count * dtype.itemsize
        if position + size > len(buffer):
            raise TrainingError(
                f"A shuffle record of {len(buffer)} bytes ends before its array {name!r} does."
            )
        if count:
            arrays[name] = np.frombuffer(buffer, dtype, count, position).reshape(shape)
        else:
            arrays[name] = np.empty(shape, dtype)
        position += size + -size % _ALIGNMENT
    return Message(header, arrays)


def _type_name(dtype: np.dtype[Any]) -> str:
    """bfloat16 and its like are not numpy's own and have no code of it."""
    return dtype.name if dtype.kind == "V" else dtype.str


def _type_named(name: str) -> np.dtype[Any]:
    if name[0] in "<>|":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name))
