"""Encoded images as pixels: every kind that is taken, and every kind that is not."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spark_dlobd.data.images import MOST_PIXELS, decode_images, problem_of
from spark_dlobd.errors import DataError
from spark_dlobd.job.columns import TensorColumn


def encoded(pixels: Any, kind: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    content = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(content, kind, **options)
    return content.getvalue()


def decoded(content: bytes, *shape: int) -> np.ndarray[Any, Any]:
    stored = np.empty(1, object)
    stored[0] = content
    return decode_images(stored, TensorColumn("x", "uint8", shape, stored="image"))[0]


QUARTERS = np.zeros((4, 6, 3), np.uint8)
QUARTERS[:2, :3] = (255, 0, 0)
QUARTERS[:2, 3:] = (0, 255, 0)
QUARTERS[2:, 3:] = (0, 0, 255)


def test_png_is_exact_and_resized() -> None:
    assert (decoded(encoded(QUARTERS), 4, 6, 3) == QUARTERS).all()
    small = decoded(encoded(np.repeat(np.repeat(QUARTERS, 8, 0), 8, 1)), 4, 6, 3)
    assert np.abs(small.astype(int) - QUARTERS).max() < 90  # edges are blurred
    assert (small[0, 0] == (255, 0, 0)).all() and (small[3, 5] == (0, 0, 255)).all()


def test_jpeg_of_any_size_and_reduced_while_decoding() -> None:
    large = np.repeat(np.repeat(QUARTERS, 100, 0), 100, 1)
    found = decoded(encoded(large, "JPEG", quality=95), 4, 6, 3)
    assert np.abs(found[0, 0].astype(int) - (255, 0, 0)).max() < 12
    assert np.abs(found[3, 5].astype(int) - (0, 0, 255)).max() < 12


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_modes_become_what_is_wanted(mode: str, channels: int) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    found = decoded(encoded(QUARTERS, kind, mode), 4, 6, channels)
    assert found.shape == (4, 6, channels)
    assert found[0, 0].max() > 50 and found[3, 0, : min(channels, 3)].max() < 30
    if channels == 4:
        assert (found[..., 3] == 255).all()


def test_alpha_is_dropped() -> None:
    clear = np.dstack([QUARTERS, np.zeros((4, 6), np.uint8)])
    assert (decoded(encoded(clear), 4, 6, 3) == QUARTERS).all()
    assert (decoded(encoded(clear), 4, 6, 4) == clear).all()


def test_grey_without_an_axis_of_channels_and_16_bits() -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    assert (decoded(encoded(grey), 4, 6) == grey).all()
    wide = grey.astype(np.uint16) * 256
    assert (decoded(encoded(Image.fromarray(wide)), 4, 6, 1)[..., 0] == grey).all()


def test_exif_turns_the_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    content = encoded(np.repeat(np.repeat(QUARTERS, 8, 0), 8, 1), "JPEG", quality=95, exif=exif)
    found = decoded(content, 6, 4, 3)
    assert np.abs(found[0, 3].astype(int) - (255, 0, 0)).max() < 12
    assert np.abs(found[5, 0].astype(int) - (0, 0, 255)).max() < 12


def test_pixels_as_spark_reads_them_are_blue_first() -> None:
    raw = b"pixels 4 6 3\n" + QUARTERS[:, :, ::-1].tobytes()
    assert problem_of(raw) is None
    assert (decoded(raw, 4, 6, 3) == QUARTERS).all()


def bomb() -> bytes:
    """A PNG that says it has a million times a million pixels."""
    header = struct.pack(">IIBBBBB", 10**6, 10**6, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"0" * 100)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no bytes"),
        (b"some text", "no JPEG, PNG or BMP"),
        (encoded(QUARTERS, "GIF", "P"), "no JPEG, PNG or BMP"),
        (encoded(np.tile(QUARTERS, (40, 40, 1)), "JPEG")[:-200], "truncated"),
        (encoded(np.tile(QUARTERS, (40, 40, 1)))[:-30], ""),
        (bomb(), "pixels"),
        (b"pixels 4 6 3\n123", "3 bytes for 4 x 6 pixels of 3 channels"),
        (b"pixels 0 6 3\n", "0 x 6 pixels"),
        (b"pixels 4 6\n", ""),
    ],
)
def test_what_is_no_image_says_why(content: bytes, problem: str) -> None:
    told = problem_of(content)
    assert told is not None and problem in told
    with pytest.raises(DataError, match="An image of column 'x' cannot be read"):
        decoded(content, 4, 6, 3)


def test_the_limit_is_on_pixels() -> None:
    assert MOST_PIXELS == 64_000_000
    assert "more than" in (problem_of(bomb()) or "") or "exceeds" in (problem_of(bomb()) or "")
