"""Encoded images as pixels: one decoder, for fit and transform. Runs on each worker."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from spark_dlobd.errors import DataError
from spark_dlobd.job.columns import TensorColumn

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

NAME = b"file "
"""Begins a row on its way from Spark: ``file NAME``, a new line, and what is stored of it."""
RAW = b"pixels "
"""Begins what Spark's image struct becomes: ``pixels HEIGHT WIDTH CHANNELS\\n`` and bytes."""
MOST_PIXELS = 64_000_000
T = TypeVar("T")
R = TypeVar("R")
_FORMATS = ("JPEG", "PNG", "BMP")
_THREADS = 2
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def decode_images(stored: NDArray[Any], column: TensorColumn) -> NDArray[np.uint8]:
    """Pixels of encoded images, resized, as uint8 of shape ``(rows, height, width, channels)``.

    An image whose EXIF data turn it is turned, alpha is dropped where three channels are
    wanted, palettes, grey and CMYK become what is wanted. A JPEG that is much larger is
    reduced while it is decoded.

    Parameters
    ----------
    stored : ndarray of object of shape (rows,)
        Content of files, or what begins with `RAW`.
    column : TensorColumn
        Its shape is the size that is wanted.

    Raises
    ------
    DataError
        An image cannot be read, which was found valid when it was written.
    """
    found = np.empty((len(stored), *column.shape), np.uint8)

    def put(place: int) -> None:
        try:
            found[place] = _pixels(stored[place], column).reshape(column.shape)
        except _UNREADABLE as error:
            raise DataError(
                f"An image of column '{column.name}' cannot be read: {_reason(error)}. It was "
                "valid when the rows were written: the cache was changed while it was read."
            ) from error

    _in_threads(put, range(len(stored)))
    return found


def named(row: bytes) -> tuple[str, bytes]:
    """Name of the file and content of a row as Spark sends it; no name where it has none."""
    if not row.startswith(NAME):
        return "", row
    head, _, content = row.partition(b"\n")
    return head[len(NAME) :].decode(errors="replace"), content


def problems_of(contents: Sequence[bytes]) -> list[str | None]:
    """`problem_of` each, in threads."""
    return _in_threads(problem_of, contents)


def _in_threads(function: Callable[[T], R], each: Iterable[T]) -> list[R]:
    # Pillow lets other threads run while it decodes and resizes
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="dlobd-images") as pool:
        return list(pool.map(function, each))


def problem_of(content: bytes) -> str | None:
    """Why an image cannot be used; None for one that can. Decodes it once, at a small size."""
    try:
        _load(content, 1).close()
    except _UNREADABLE as error:
        return _reason(error)
    return None


class _NotUsableError(Exception):
    """An image that is none of those that can be used."""


# Pillow raises many kinds for damaged files; struct.error and the like are ValueErrors or these
_UNREADABLE = (OSError, ValueError, SyntaxError, ArithmeticError, _NotUsableError, EOFError)


def _reason(error: Exception) -> str:
    text = str(error)
    return "no JPEG, PNG or BMP" if "cannot identify image file" in text else text


def _pixels(content: bytes, column: TensorColumn) -> NDArray[np.uint8]:
    height, width = column.shape[:2]
    channels = column.shape[2] if len(column.shape) > 2 else 1
    with _load(content, max(height, width)) as image:
        mode = _MODES[channels]
        if image.mode != mode:
            image = _converted(image, mode)
        if image.size != (width, height):
            image = image.resize((width, height), 2)  # bilinear, with antialiasing
        return np.asarray(image)


def _load(content: bytes, longest: int) -> Image:
    """A decoded image, at least `longest` pixels long where it was longer."""
    import PIL.Image
    import PIL.ImageOps

    if not content:
        raise _NotUsableError("no bytes")
    if content.startswith(RAW):
        return _raw(content)
    with warnings.catch_warnings():
        # the limit below is stricter
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        try:
            image = PIL.Image.open(io.BytesIO(content), formats=_FORMATS)
        except PIL.Image.DecompressionBombError as error:
            raise _NotUsableError(str(error)) from error
    if image.width * image.height > MOST_PIXELS:
        raise _NotUsableError(f"{image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")
    image.draft(None, (longest, longest))
    image.load()
    PIL.ImageOps.exif_transpose(image, in_place=True)  # not in place it copies every image
    return image


def _raw(content: bytes) -> Image:
    """Pixels as Spark reads them: rows from above, blue before green before red."""
    import PIL.Image

    header, _, pixels = content.partition(b"\n")
    height, width, channels = (int(word) for word in header[len(RAW) :].split())
    if channels not in _MODES or height < 1 or width < 1:
        raise _NotUsableError(f"{height} x {width} pixels of {channels} channels")
    if len(pixels) != height * width * channels:
        raise _NotUsableError(
            f"{len(pixels)} bytes for {height} x {width} pixels of {channels} channels"
        )
    array = np.frombuffer(pixels, np.uint8).reshape(height, width, channels)
    if channels == 1:
        return PIL.Image.fromarray(array[:, :, 0])
    order = [2, 1, 0] if channels == 3 else [2, 1, 0, 3]
    return PIL.Image.fromarray(np.ascontiguousarray(array[:, :, order]))


def _converted(image: Image, mode: str) -> Image:
    if image.mode.startswith("I"):
        # 16 bits a pixel
        wide = np.asarray(image).astype(np.int64)
        return _converted(_grey(np.clip(wide >> 8, 0, 255)), mode)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    return image if image.mode == mode else image.convert(mode)


def _grey(values: NDArray[Any]) -> Image:
    import PIL.Image

    return PIL.Image.fromarray(values.astype(np.uint8))
