"""A ``.keras`` file looked through before Keras reads it: whole, and no larger than it may be.

Keras compresses neither the members of the file nor the weights in them, so what a file
of Keras unpacks to is as large as the file. Other tools may have packed it again; what
unpacks to much more than that is refused, whatever it declares.
"""

from __future__ import annotations

import copy
import io
import json
import math
import zipfile
from typing import Any

from spark_dlobd.errors import ModelError

UNPACKED_RATIO = 10
UNPACKED_FLOOR_BYTES = 64 << 20
_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"
# Others of zipfile's methods inflate without a limit that one could give them.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PIECE_BYTES = 1 << 20


def unpacked_limit(archive_bytes: int) -> int:
    """Bytes that a file of this size may unpack to.

    Examples
    --------
    >>> unpacked_limit(1000) >> 20, unpacked_limit(10**9)
    (64, 10000000000)
    """
    return max(UNPACKED_FLOOR_BYTES, UNPACKED_RATIO * archive_bytes)


def check_archive(archive: bytes) -> None:
    """Check the bytes of a ``.keras`` file without building the model.

    Every member is unpacked once, piece by piece, and compared with its checksum and its
    declared length. Neither the members nor the arrays of weights may together declare
    more than `unpacked_limit`.

    Parameters
    ----------
    archive : bytes
        The file.

    Raises
    ------
    ModelError
        If a part is damaged or missing, or the file declares too much.
    """
    limit = unpacked_limit(len(archive))
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            _check_members(file, limit)
            config = json.loads(file.read(_CONFIG))
            weights = file.read(_WEIGHTS)
        if not isinstance(config, dict) or "class_name" not in config:
            raise ModelError(f"Its {_CONFIG} does not describe a model.")
        _check_weights(weights, limit)
    except ModelError:
        raise
    except Exception as error:
        # zipfile, zlib, json and h5py have a dozen classes for what is damaged.
        raise ModelError(f"It is damaged ({type(error).__name__}: {error}).") from error


def _check_members(file: zipfile.ZipFile, limit: int) -> None:
    members = file.infolist()
    names = [member.filename for member in members]
    missing = sorted({_CONFIG, _WEIGHTS} - set(names))
    if missing:
        raise ModelError(f"It is incomplete: it lacks {' and '.join(missing)}.")
    if len(set(names)) < len(names):
        raise ModelError("It holds two members of one name, so it is not clear what it says.")
    _check_declared(sum(member.file_size for member in members), limit, "Its members")
    for member in members:
        if member.compress_type not in _METHODS:
            raise ModelError(
                f"Its member {member.filename!r} is compressed with method "
                f"{member.compress_type}; Keras stores members as they are. Save the model again."
            )
        _check_length(file, member)


def _check_length(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Read to the real end of a member, in pieces: zipfile stops at the declared one."""
    longer = copy.copy(member)
    longer.file_size += 1
    length = 0
    with file.open(longer) as stream:
        while piece := stream.read(_PIECE_BYTES):
            length += len(piece)
    if length != member.file_size:
        raise ModelError(
            f"Its member {member.filename!r} declares {member.file_size} bytes and holds "
            f"{'more' if length > member.file_size else length}."
        )


def _check_weights(weights: bytes, limit: int) -> None:
    import h5py  # type: ignore[import-untyped]

    links: list[tuple[bytes, Any]] = []
    with h5py.File(io.BytesIO(weights), "r") as file:
        file.id.links.visit(lambda name, link: links.append((name, link.type)), info=True)
        declared = 0
        for name, kind in links:
            if kind != h5py.h5l.TYPE_HARD:
                raise ModelError(f"Its weights refer to another place in {name.decode()!r}.")
            item = file[name]
            if isinstance(item, h5py.Dataset):
                declared += _declared_bytes(item)
    _check_declared(declared, limit, "Its weights")


def _declared_bytes(array: Any) -> int:
    """Memory that reading an array of an HDF5 file takes."""
    filters = array.id.get_create_plist().get_nfilters()
    if filters or array.external or array.is_virtual or array.dtype.hasobject:
        raise ModelError(
            f"Its weights {array.name!r} are compressed, of variable length or in another file, "
            "which Keras never writes. Save the model again."
        )
    # Not array.size, which may overflow. A chunk may be larger than the array it is a part of.
    elements = [math.prod(shape) for shape in (array.shape, array.chunks) if shape is not None]
    return max(elements, default=0) * int(array.dtype.itemsize)


def _check_declared(declared: int, limit: int, what: str) -> None:
    if declared > limit:
        raise ModelError(
            f"{what} declare {declared:,} bytes, which is more than a file of this size may "
            f"unpack to: {limit:,} bytes ({UNPACKED_RATIO} times the file, at least "
            f"{UNPACKED_FLOOR_BYTES >> 20} MiB). Save the model again with Keras, which does not "
            "compress it."
        )
