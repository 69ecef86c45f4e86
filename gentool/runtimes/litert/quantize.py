"""Weights in 8 and 4 bits, as XNNPACK computes with them: symmetric, one scale for each output in
int8, one for each 32 inputs of an output in int4.
"""

from __future__ import annotations

import numpy as np
from ml_dtypes import bfloat16

from gentool.models.quantized import BLOCK, Quantized

SMALLEST = np.float16(2.0**-24)  # a scale must be positive
PIECE = 1 << 20  # weights quantised at a time, so that intermediate results stay in the cache
FIRST_DIVISORS = (
    6.4,
    7.0,
    7.4,
    7.8,
    8.2,
    8.8,
    9.6,
)  # max|w| over the scales that a search starts from
ROUNDS = 2  # of least squares


def fits_int4(shape: tuple[int, ...]) -> bool:
    """Whether a weight [out, in] can have a scale for each 32 inputs."""
    return shape[1] % BLOCK == 0


def int8(weight: np.ndarray) -> Quantized:
    """A weight [out, in] of any float dtype, rounded by scales max|w| / 127."""
    values = np.empty(weight.shape, np.int8)
    scales = np.empty(len(weight), np.float32)
    for rows in _pieces(weight):
        piece = weight[rows].astype(np.float32)
        scale = np.abs(piece).max(axis=1) / np.float32(127)
        scale[scale == 0] = 1
        scales[rows] = scale
        values[rows] = np.rint(piece / scale[:, None])
    return Quantized(values, scales)


def int4(weight: np.ndarray) -> Quantized:
    """A weight [out, in] of any float dtype in blocks of 32 inputs. From each of a few
    initial scales: round, refit the scale by least squares, twice; keep the result with the lowest
    error. A scale is exact in float16, which a graph holds, and in bfloat16, which XNNPACK
    converts it to."""
    out, width = weight.shape
    values = np.empty((out, width), np.int8)
    scales = np.empty((out, width // BLOCK), np.float16)
    for rows in _pieces(weight):
        blocks = weight[rows].astype(np.float32).reshape(-1, BLOCK)
        best, scale = _least_squares(blocks)
        values[rows] = best.reshape(-1, width)
        scales[rows] = scale.reshape(-1, width // BLOCK)
    return Quantized(values, scales)


def _least_squares(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values [..., 32] and float16 scales [...] of float32 blocks [..., 32]."""
    largest = np.abs(blocks).max(axis=1)
    best = np.zeros(blocks.shape, np.float32)
    best_scale = np.full(len(blocks), SMALLEST)
    least = np.full(len(blocks), np.inf, np.float32)
    for divisor in FIRST_DIVISORS:
        scale = largest / np.float32(divisor)
        for last in [*[False] * ROUNDS, True]:
            stored = np.maximum(scale.astype(bfloat16).astype(np.float16), SMALLEST)
            exact = stored.astype(np.float32)
            values = np.clip(np.rint(blocks / exact[:, None]), -8, 7)
            if not last:
                squares = np.einsum("mi,mi->m", values, values)
                squares[squares == 0] = 1
                scale = np.einsum("mi,mi->m", values, blocks) / squares
        difference = blocks - values * exact[:, None]
        error = np.einsum("mi,mi->m", difference, difference)
        better = error < least
        best[better], best_scale[better], least[better] = (
            values[better],
            stored[better],
            error[better],
        )
    return best, best_scale


def _pieces(weight: np.ndarray) -> list[slice]:
    """Slices of the rows of a weight, PIECE weights each."""
    step = max(1, PIECE // weight.shape[1])
    return [slice(start, start + step) for start in range(0, len(weight), step)]
