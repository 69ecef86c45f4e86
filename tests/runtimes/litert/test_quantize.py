"""Weights in 8 and 4 bits."""

import numpy as np
import pytest
from ml_dtypes import bfloat16

from gentool.models.quantized import packed
from gentool.runtimes.litert import quantize

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, bfloat16])
def test_int8_is_within_half_a_step(dtype):
    weight = RNG.normal(0, 0.02, (70, 48)).astype(dtype)
    weight[3] = 0
    quantized = quantize.int8(weight)
    assert quantized.values.dtype == np.int8 and quantized.scales.shape == (70,)
    error = np.abs(quantized.dequantized() - weight.astype(np.float32))
    assert (error <= quantized.scales[:, None] * 0.5001).all()
    assert not quantized.dequantized()[3].any()
    assert np.abs(quantized.values[0]).max() == 127


def test_int4_is_of_less_error_than_any_usual_scale():
    weight = RNG.standard_t(5, (40, 128)).astype(np.float32)
    quantized = quantize.int4(weight)
    assert quantized.values.min() == -8 and quantized.values.max() == 7
    error = np.square(quantized.dequantized() - weight).reshape(-1, 32).sum(axis=1)
    blocks = weight.reshape(-1, 32)
    for divisor in (7, 7.5, 8):
        scale = np.abs(blocks).max(axis=1, keepdims=True) / divisor
        usual = np.clip(np.rint(blocks / scale), -8, 7) * scale
        assert error.sum() < np.square(usual - blocks).sum()


def test_int4_scales_are_positive_and_of_both_16_bit_floats():
    """XNNPACK computes with them in bfloat16, and refuses 0."""
    weight = RNG.normal(0, 0.01, (8, 64)).astype(np.float32)
    weight[2], weight[3] = 0, 1e-9
    quantized = quantize.int4(weight)
    assert (quantized.scales > 0).all() and quantized.scales.dtype == np.float16
    rounded = quantized.scales.astype(np.float32).astype(bfloat16).astype(np.float32)
    np.testing.assert_array_equal(rounded, quantized.scales.astype(np.float32))
    assert not quantized.dequantized()[2].any()


def test_pieces_are_as_the_whole(monkeypatch):
    weight = RNG.normal(0, 1, (33, 64)).astype(np.float32)
    whole = quantize.int8(weight), quantize.int4(weight)
    monkeypatch.setattr(quantize, "PIECE", 200)
    for before, after in zip(whole, (quantize.int8(weight), quantize.int4(weight)), strict=True):
        np.testing.assert_array_equal(before.values, after.values)
        np.testing.assert_array_equal(before.scales, after.scales)


def test_packed_low_bits_first():
    found = packed(np.array([[1, -1], [7, -8]], np.int8))
    assert found.tolist() == [0xF1, 0x87]
