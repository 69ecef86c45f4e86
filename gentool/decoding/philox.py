"""Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, Parallel random numbers: as easy
as 1, 2, 3). A number is a function of its key, in integer arithmetic, so equal on every machine.
"""

from __future__ import annotations

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


Word = int | np.ndarray  # of 32 bits, or such words [...]


def philox(counter: np.ndarray, key: tuple[Word, Word]) -> np.ndarray:
    """Ten rounds over counters [4, ...] of 32-bit words under a key of two words: [4, ...]."""
    a, b, c, d = counter.astype(np.uint64)
    for round_number in range(10):
        low, high = (
            np.uint64((k + round_number * w) & 0xFFFFFFFF) for k, w in zip(key, _WEYL, strict=True)
        )
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            (second >> _HALF) ^ b ^ low,
            second & _LOW,
            (first >> _HALF) ^ d ^ high,
            first & _LOW,
        )
    return np.stack([a, b, c, d])


def uniform(
    seed: int | np.ndarray, row: np.ndarray, sample: np.ndarray, step: np.ndarray
) -> np.ndarray:
    """u(seed, row, sample, step) [...] in [0, 1), 53 bits each, of keys that broadcast; seed, an
    int or uint64 [...], below 2^64, the others below 2^32."""
    words = np.stack(np.broadcast_arrays(step, sample, row, 0))  # [4, ...]
    out = philox(words, (seed & 0xFFFFFFFF, seed >> 32))
    return ((out[0] << np.uint64(21)) | (out[1] >> np.uint64(11))).astype(np.float64) * 2.0**-53
