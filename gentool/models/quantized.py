"""Weights in 8 and 4 bits: integers with scales, as a converted folder stores them."""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes
import numpy as np

BLOCK = 32  # inputs that share a scale in int4
SCALES = ".scales"  # ends the name of the tensor of a weight's scales

INT8, INT4 = np.dtype(np.int8), np.dtype(ml_dtypes.int4)
STORED = {np.dtype(np.int8): INT8, np.dtype(np.uint8): INT4}  # dtype in a file -> of the weight


class Quantized(NamedTuple):
    """A weight [out, in]: values int8 [out, in], in [-127, 127] with scales float32 [out] or, in
    int4, in [-8, 7] with scales float16 [out, in/32]."""

    values: np.ndarray
    scales: np.ndarray

    @property
    def bits(self) -> int:
        return 8 if self.scales.ndim == 1 else 4

    def dequantized(self) -> np.ndarray:
        """The weight that it computes as, float32 [out, in]."""
        values = self.values.astype(np.float32)
        if self.bits == 8:
            return values * self.scales[:, None]
        blocks = values.reshape(len(values), -1, BLOCK)
        return (blocks * self.scales[..., None].astype(np.float32)).reshape(values.shape)


def packed(values: np.ndarray) -> np.ndarray:
    """int4 values [...], an even number of them, as bytes: the first of a pair in the low bits."""
    flat = values.reshape(-1)
    return (flat[0::2] & 15).view(np.uint8) | (flat[1::2] << 4).view(np.uint8)


def unpacked(data: np.ndarray) -> np.ndarray:
    """int4 values int8 [..., 2B] of bytes [..., B]."""
    pairs = np.stack([data << 4, data], axis=-1).view(np.int8) >> 4
    return pairs.reshape(*data.shape[:-1], -1)


def shapes(shape: tuple[int, ...], dtype: np.dtype) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes in a file of the values and scales of a weight [out, in]."""
    out, width = shape
    if dtype == INT8:
        return (out, width), (out,)
    return (out, width // 2), (out, width // BLOCK)
