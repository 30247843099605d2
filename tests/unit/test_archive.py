"""What a ``.keras`` file may declare and hold before Keras reads it."""

from __future__ import annotations

import bz2
import io
import json
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest

from spark_dlobd.errors import ModelError
from spark_dlobd.training import archive as archives
from spark_dlobd.training import keras_codec
from spark_dlobd.training.archive import check_archive, unpacked_limit

keras = pytest.importorskip("keras")
MIB = 1 << 20
CONFIG = json.dumps({"class_name": "Sequential"}).encode()


@pytest.fixture(scope="module")
def genuine() -> bytes:
    return keras_codec.model_to_archive(
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    )


def weights(write: Callable[[Any], Any] = lambda file: file.create_dataset("w", data=[1.0])) -> Any:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write(file)
    return buffer.getvalue()


def packed(
    members: dict[str, bytes], method: int = zipfile.ZIP_STORED, **declared: dict[str, int]
) -> bytes:
    """Zip file whose directory says of its weights what `declared` says."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
        for key, value in declared.get("weights", {}).items():
            setattr(file.getinfo("model.weights.h5"), key, value)
    return buffer.getvalue()


def stage(**members: bytes) -> dict[str, bytes]:
    return {
        "config.json": members.get("config", CONFIG),
        "model.weights.h5": members.get("weights", weights()),
    }


def test_what_keras_writes_is_as_large_as_its_file(
    genuine: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_archive(genuine)
    monkeypatch.setattr(archives, "UNPACKED_FLOOR_BYTES", 0)
    monkeypatch.setattr(archives, "UNPACKED_RATIO", 1)
    check_archive(genuine)


def test_the_limit() -> None:
    assert unpacked_limit(13_000_000) == 130_000_000
    assert unpacked_limit(100) == 64 * MIB
    assert unpacked_limit(5 << 30) == 50 << 30


def test_a_file_that_was_packed_again_is_read(genuine: bytes) -> None:
    noise = np.random.default_rng(0).normal(size=(MIB,)).astype("float32")
    large = weights(lambda file: file.create_dataset("w", data=noise))
    check_archive(packed(stage(weights=large), zipfile.ZIP_DEFLATED))
    zeros = weights(lambda file: file.create_dataset("w", data=np.zeros(32 * MIB, "uint8")))
    again = packed(stage(weights=zeros), zipfile.ZIP_DEFLATED)
    assert len(again) < 100_000
    check_archive(again)


def test_a_bomb_is_refused_by_what_it_declares() -> None:
    bomb = packed(stage(config=b"0" * (65 * MIB)), zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    tracemalloc.start()
    with pytest.raises(ModelError, match=r"members declare 68,1.* more than .* 67,108,864 bytes"):
        check_archive(bomb)
    assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    tracemalloc.stop()


def test_many_members_count_together() -> None:
    members = {**stage(), **{f"assets/{i}": b"0" * (13 * MIB) for i in range(5)}}
    with pytest.raises(ModelError, match=r"members declare 68,1"):
        check_archive(packed(members, zipfile.ZIP_DEFLATED))


def test_a_member_that_holds_more_than_it_declares() -> None:
    """zipfile and Keras would inflate all of it, and then hand on the declared bytes."""
    short = weights()
    bomb = packed(
        stage(weights=short + bytes(128 * MIB)),
        zipfile.ZIP_DEFLATED,
        weights={"file_size": len(short), "CRC": zlib.crc32(short)},
    )
    tracemalloc.start()
    with pytest.raises(ModelError, match=r"damaged \(BadZipFile: Bad CRC-32"):
        check_archive(bomb)
    assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    tracemalloc.stop()
    longer = short + b"\0"
    lie = {"file_size": len(short), "CRC": zlib.crc32(longer)}
    with pytest.raises(ModelError, match=rf"declares {len(short)} bytes and holds more"):
        check_archive(packed(stage(weights=longer), zipfile.ZIP_DEFLATED, weights=lie))


def test_a_member_that_holds_less_than_it_declares() -> None:
    short = weights()
    with pytest.raises(ModelError, match=rf"declares 9999 bytes and holds {len(short)}\."):
        check_archive(packed(stage(weights=short), weights={"file_size": 9999}))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_inflate_without_a_limit(method: int) -> None:
    assert len(bz2.compress(bytes(MIB))) < 100
    with pytest.raises(ModelError, match=f"compressed with method {method}; Keras stores"):
        check_archive(packed(stage(), method))


def lying_chunk(file: Any) -> None:
    made = file.create_dataset("w", (4,), "uint8", chunks=(4,), compression="gzip")
    made.id.write_direct_chunk((0,), zlib.compress(bytes(MIB)))


def huge_chunk(file: Any) -> None:
    file.create_dataset("w", (1,), "uint8", maxshape=(None,), chunks=(65 * MIB,))


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "w", (2,))
    file.create_virtual_dataset("w", layout)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: file.create_dataset("w", (65 * MIB,), "uint8"), "weights declare 68,157,440"),
        (lambda file: file.create_dataset("w", (1 << 62, 4), "f4"), "weights declare 73,786,976,"),
        (huge_chunk, "weights declare 68,157,440"),
        (lying_chunk, "'/w' are compressed, of variable length or in another file"),
        (lambda file: file.create_dataset("w", data=[b"x"] * 3, dtype=h5py.string_dtype()), "'/w'"),
        (virtual, "'/w' are compressed"),
        (
            lambda file: file.create_dataset("w", (1,), "f4", external=[("/etc/passwd", 0, 4)]),
            "'/w' are compressed",
        ),
        (
            lambda file: file.create_group("a").__setitem__("w", h5py.ExternalLink("/x.h5", "w")),
            "another place in 'a/w'",
        ),
        (lambda file: file.__setitem__("w", h5py.SoftLink("/v")), "another place in 'w'"),
    ],
)
def test_weights_that_declare_more_than_they_hold(
    write: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        check_archive(packed(stage(weights=weights(write))))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"config.json": CONFIG}, r"incomplete: it lacks model\.weights\.h5\."),
        ({"readme": b""}, r"lacks config\.json and model\.weights\.h5\."),
        (stage(config=b"garbage"), r"damaged \(JSONDecodeError"),
        (stage(config=b"[" * 100_000), r"damaged \(RecursionError"),
        (stage(config=b"[1]"), r"config\.json does not describe a model"),
        (stage(weights=b"garbage"), r"damaged \(OSError"),
        (stage(weights=weights()[:-400]), r"damaged \(OSError: .*truncated"),
    ],
)
def test_wrong_members(members: dict[str, bytes], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_archive(packed(members))


def test_two_members_of_one_name() -> None:
    buffer = io.BytesIO(packed(stage()))
    with zipfile.ZipFile(buffer, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("config.json", CONFIG)
    with pytest.raises(ModelError, match="two members of one name"):
        check_archive(buffer.getvalue())


@pytest.mark.parametrize("data", [b"", b"garbage", b"PK\x05\x06" + bytes(18)])
def test_no_archive_at_all(data: bytes) -> None:
    with pytest.raises(ModelError, match=r"from its file\. It is (damaged|incomplete)"):
        keras_codec.archive_to_model(data)


def test_a_flipped_bit_is_found_or_changes_nothing(genuine: bytes) -> None:
    """Checksums cover the members; flips of dates and the like are not noticed, nor matter."""
    found = 0
    for bit in range(0, 8 * len(genuine), 47):
        flipped = bytearray(genuine)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            check_archive(bytes(flipped))
        except ModelError:
            found += 1
            continue
        with (
            zipfile.ZipFile(io.BytesIO(flipped)) as file,
            zipfile.ZipFile(io.BytesIO(genuine)) as whole,
        ):
            for name in ("config.json", "model.weights.h5"):
                assert file.read(name) == whole.read(name)
    assert found > 0.95 * 8 * len(genuine) / 47
