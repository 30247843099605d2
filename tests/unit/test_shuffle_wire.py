"""Vectors on the wire: rounding checked by hand, nothing lost without a word."""

from __future__ import annotations

import numpy as np
import pytest

from spark_dlobd.backends.shuffle.wire.vectors import (
    bytes_per_weight,
    decode,
    encode,
    encode_with_feedback,
)
from spark_dlobd.errors import ConfigurationError, TrainingError

STEP = 2.0**-7  # between neighbours of bf16 in [1, 2)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize(("wire", "width"), [("fp32", 4), ("bf16", 2), ("fp16", 2)])
def test_bytes_per_weight(wire, width):
    assert bytes_per_weight(wire) == width
    assert encode(f32(1, 2, 3), wire).nbytes == 3 * width


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1 + STEP / 2, 1),  # a tie goes to the even neighbour, here down
        (1 + 3 * STEP / 2, 1 + 2 * STEP),  # and here up
        (1 + STEP / 2 + 2**-20, 1 + STEP),  # just above a tie; truncation would give 1
        (1 + 0.75 * STEP, 1 + STEP),
        (1 + 0.25 * STEP, 1),
        (-(1 + 0.75 * STEP), -(1 + STEP)),
        (2 - STEP / 4, 2),  # the carry reaches the exponent
        (0.0, 0.0),
        (2.0**-130, 2.0**-130),  # subnormal
        (3.0e38, float.fromhex("0x1.c4p+127")),  # 3.0e38 is 0x1.c36...p+127
    ],
)
def test_bf16_rounds_to_nearest_even(value, rounded):
    assert decode(encode(f32(value), "bf16"), "bf16")[0] == rounded


def test_bf16_agrees_with_integer_arithmetic_on_the_bits():
    bits = np.random.default_rng(1).integers(0, 2**32, 200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    bits = values.view(np.uint32).astype(np.uint64)

    expected = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16

    assert np.array_equal(np.frombuffer(encode(values, "bf16"), np.uint16), expected)


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1 + 2**-11, 1),
        (1 + 3 * 2**-11, 1 + 2**-9),
        (65519.0, 65504.0),
        (-65504.0, -65504.0),
        (2.0**-24, 2.0**-24),
        (2.0**-26, 0.0),
    ],
)
def test_fp16_rounds_to_nearest_even(value, rounded):
    assert decode(encode(f32(value), "fp16"), "fp16")[0] == rounded


@pytest.mark.parametrize("wire", ["fp32", "bf16", "fp16"])
def test_nan_and_infinity_stay(wire):
    low_payload = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)  # NaN

    decoded = decode(encode(np.concatenate([low_payload, f32(np.inf, -np.inf)]), wire), wire)

    assert np.isnan(decoded[:2]).all()
    assert decoded[2:].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("value", [65520.0, -1e6, 3e38])
def test_what_fp16_cannot_hold_is_an_error(value):
    with pytest.raises(TrainingError, match=r"does not fit into fp16.*bf16 or fp32"):
        encode(f32(1, np.inf, value), "fp16")
    with pytest.raises(TrainingError, match="does not fit into fp16"):
        encode_with_feedback(f32(1, value), None, "fp16")


def test_what_rounds_beyond_bf16_is_infinite_and_so_detectable():
    assert decode(encode(f32(np.finfo(np.float32).max), "bf16"), "bf16").tolist() == [np.inf]


def test_fp32_copies_nothing():
    array = f32(1, 2, 3)

    encoded = encode(array, "fp32")

    assert np.shares_memory(np.frombuffer(encoded, np.uint8), array)
    assert np.shares_memory(decode(encoded, "fp32"), array)
    assert not decode(bytes(encoded), "fp32").flags.writeable


@pytest.mark.parametrize("wire", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("size", [0, 1, 70_001])
def test_round_trip_through_bytes(wire, size):
    array = (np.arange(size, dtype=np.float32) % 251) - 100  # 8 bits: exact in every type

    assert np.array_equal(decode(bytes(encode(array, wire)), wire), array)


def test_rounding_has_no_bias_where_truncation_has():
    values = np.random.default_rng(2).uniform(1, 2, 100_000).astype(np.float32)

    rounded = decode(encode(values, "bf16"), "bf16")
    truncated = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)

    assert abs(float(np.mean(rounded - values, dtype=np.float64))) < 0.01 * STEP
    assert float(np.mean(truncated - values, dtype=np.float64)) < -0.45 * STEP


@pytest.mark.parametrize("wire", ["bf16", "fp16"])
def test_feedback_makes_the_mean_of_many_encodings_the_value(wire):
    value = f32(1.0003, -0.33333, 1e-3, 7.77)
    residual, total, rounds = None, np.zeros(4), 1000
    for _ in range(rounds):
        encoded, residual = encode_with_feedback(value, residual, wire)
        total += decode(encoded, wire)

    without = decode(encode(value, wire), wire)

    assert np.allclose(total / rounds, value, rtol=1e-5)
    assert not np.allclose(without, value, rtol=1e-5)


def test_feedback_of_truncation_free_values_is_zero_and_inputs_stay():
    array, residual = f32(1 + STEP / 2), f32(STEP / 4)

    encoded, lost = encode_with_feedback(array, residual, "bf16")

    assert decode(encoded, "bf16").tolist() == [1 + STEP]
    assert lost.tolist() == [-STEP / 4]
    assert (array.tolist(), residual.tolist()) == ([1 + STEP / 2], [STEP / 4])


def test_fp32_feedback_sends_the_old_residual_and_keeps_none():
    encoded, lost = encode_with_feedback(f32(1.0), f32(0.5), "fp32")

    assert decode(encoded, "fp32").tolist() == [1.5]
    assert lost.tolist() == [0.0]


def test_feedback_over_many_chunks_is_that_of_the_whole():
    values = np.random.default_rng(3).normal(size=200_001).astype(np.float32)

    encoded, lost = encode_with_feedback(values, None, "bf16")

    assert bytes(encoded) == bytes(encode(values, "bf16"))
    assert np.array_equal(lost, values - decode(encoded, "bf16"))


def test_wrong_use_is_refused():
    with pytest.raises(ConfigurationError, match=r"fp32, bf16, fp16. Got 'int8'"):
        encode(f32(1), "int8")
    with pytest.raises(TrainingError, match=r"multiple of 2 bytes. Got 3"):
        decode(b"abc", "bf16")
    with pytest.raises(TrainingError, match=r"residual has shape \(2,\), the vector \(1,\)"):
        encode_with_feedback(f32(1), f32(1, 2), "bf16")
    with pytest.raises(TrainingError, match="contiguous float32"):
        encode(np.zeros(3), "fp32")
    with pytest.raises(TrainingError, match="contiguous float32"):
        encode(np.zeros(6, np.float32)[::2], "bf16")
